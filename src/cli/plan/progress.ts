/** Progress of a plan: the share of the dry runs that are expected, and the time that is left. */
import type { PlanStage, TellStage } from "../../answer/answerOf.ts";
import { bar, formatDuration, type Output, Pace } from "../output/output.ts";

/** In their order. runs: dry runs that a stage usually needs. */
const STAGES = {
  policy: { says: "looking for the fastest policy that fits", runs: 27 },
  ranks: { says: "planning one card and several", runs: 50 },
  official: { says: "planning the official recipe", runs: 1 },
  cards: { says: "planning for common cards", runs: 220 },
  details: { says: "room to spare, and the cost of each setting", runs: 14 },
  page: { says: "planning other sizes and ranks", runs: 26 },
} as const satisfies Record<PlanStage, { says: string; runs: number }>;

export interface PlanProgress {
  tell: TellStage;
  /** Called after each dry run. */
  onDryRun(): void;
}

const BAR_COLUMNS = 20;

/** In a pipe a plan shorter than this says nothing, and a longer one a line as often. */
const PIPE_INTERVAL_MS = 10_000;

/**
 * Shows a line with the fraction that is done: on a terminal after each dry run, in a pipe every ten seconds.
 */
export function planProgress(
  output: Output,
  stages: readonly PlanStage[],
  now: () => number = () => performance.now(),
): PlanProgress {
  const pace = new Pace(now);
  const total = runsOf(stages);
  let stage: PlanStage = stages[0]!;
  let runs = 0;
  let saidAtMs = now();
  const show = (): void => {
    const before = runsOf(stages.slice(0, stages.indexOf(stage)));
    const share = (before + Math.min(runs, STAGES[stage].runs)) / total;
    const left = share > 0 && share < 1 ? `, about ${formatDuration(pace.leftMs(share))} left` : "";
    const words = `${Math.floor(100 * share)} %: ${STAGES[stage].says}${left}`;
    if (output.flicker(`${bar(share, BAR_COLUMNS).padEnd(BAR_COLUMNS)} ${words}`)) return;
    if (now() - saidAtMs < PIPE_INTERVAL_MS) return;
    saidAtMs = now();
    output.note(`planning, ${words}`);
  };
  return {
    tell(entered) {
      stage = entered;
      runs = 0;
      show();
    },
    onDryRun() {
      runs++;
      show();
    },
  };
}

function runsOf(stages: readonly PlanStage[]): number {
  return stages.reduce((sum, stage) => sum + STAGES[stage].runs, 0);
}
