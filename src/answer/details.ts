/** Facts for --explain: phases, room to spare, and the cost of increasing each setting. */
import { STEP_PHASES } from "../plan/dryRun/dryRun.ts";
import type { SizedPlan } from "../plan/planner.ts";
import { isCpuSpeed } from "../plan/time/cpuSpeed.ts";
import { hiddenShare } from "../plan/time/stepTime.ts";
import { type Levers, leversOf } from "./levers.ts";
import { roomToSpare, type Way } from "./otherWays.ts";
import { isUnlimited, type Question } from "./question.ts";
import { type PhaseSummary, phasesOf } from "./summary.ts";

export interface Details {
  phases: PhaseSummary[];
  /** Share of the copies between host and card that is hidden behind computing; undefined without copies. */
  hiddenShare?: number;
  levers: Levers;
  /** The largest value of each setting that fits, if the plan fits a limit. */
  room?: Way[];
}

export function detailsOf(question: Question, plan: SizedPlan): Details {
  const { speed } = question.planner;
  const ops = plan.run.phases.filter(({ name }) => STEP_PHASES.includes(name)).map((phase) => phase.ops());
  const hidden = isCpuSpeed(speed) ? undefined : hiddenShare(ops, speed);
  const hasRoom = plan.fits && !isUnlimited(question);
  return {
    phases: phasesOf(question, plan),
    ...(hidden !== undefined && { hiddenShare: hidden }),
    levers: leversOf(question, plan),
    ...(hasRoom && { room: roomToSpare(question, plan) }),
  };
}
