/** How far a plan is, for whoever waits at a terminal: stages take their share of the time, and what is left follows from that. */
import { bar, formatDuration, type Output, Pace } from "../output/output.ts";

/** In their order; `seconds` is what one takes beside the others, on one core of 2024. */
const STAGES = {
  policy: { says: "the policy", seconds: 2 },
  official: { says: "the official recipe", seconds: 0.1 },
  common: { says: "what common cards make of it", seconds: 10 },
  words: { says: "alternatives, room and levers", seconds: 2 },
  sizes: { says: "what sizes need", seconds: 9 },
  ranks: { says: "what ranks cost", seconds: 0.5 },
  cards: { says: "what cards take", seconds: 26 },
} as const;

export type PlanStage = keyof typeof STAGES;

/** Told as a stage is entered, and how much of it is done. */
export type TellStage = (stage: PlanStage, doneRatio?: number) => void;

const BAR_COLUMNS = 20;

/** Shows a line on the terminal for those stages of which a plan consists; nothing in a pipe. */
export function planProgress(output: Output, stages: readonly PlanStage[]): TellStage {
  const pace = new Pace();
  const total = secondsOf(stages);
  return (stage, doneRatio = 0) => {
    const before = secondsOf(stages.slice(0, Math.max(0, stages.indexOf(stage))));
    const share = (before + doneRatio * STAGES[stage].seconds) / total;
    const left = share > 0 ? `, about ${formatDuration(pace.leftMs(share))} left` : "";
    output.flicker(`${bar(share, BAR_COLUMNS).padEnd(BAR_COLUMNS)} planning: ${STAGES[stage].says}${left}`);
  };
}

function secondsOf(stages: readonly PlanStage[]): number {
  return stages.reduce((sum, stage) => sum + STAGES[stage].seconds, 0);
}
