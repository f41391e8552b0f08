/** The plan of a run, made from its options and its data before anything is loaded. */
import { readAdapter } from "../checkpoint/peft.ts";
import type { PreparedSample } from "../data/validate.ts";
import type { Limits, Planner } from "../plan/search.ts";
import { DEFAULT_POLICY, type Policy } from "../step/policy.ts";
import { scope } from "../torch/tensor.ts";
import { type AnswersPlan, planAnswers } from "./answers.ts";
import type { Checkpoint } from "./checkpoints.ts";
import type { Demand } from "./demand.ts";
import type { TrainOptions } from "./options.ts";
import { limitsOf } from "./planner.ts";
import { tooLittleMemory } from "./refusal.ts";
import { RunPlan, type RunWorkload } from "./runPlan.ts";

export interface PlanRequest {
  options: TrainOptions;
  planner: Planner;
  demand: Demand;
  evalSamples: readonly PreparedSample[];
  /** Ids that end an answer of an evaluation. */
  stopIds: readonly number[];
  checkpoint: Checkpoint | undefined;
  /** The user's own, if there is one. */
  policy: Policy | undefined;
  /** The kernel that the run has settled on; "measured" on the CPU, which has its own. */
  attention: Policy["attention"];
}

export interface RunPlanning {
  plan: RunPlan;
  workload: RunWorkload;
  /** Of the evaluations; undefined where nothing says how much memory there is. */
  answers: AnswersPlan | undefined;
  /** What was planned within; undefined where the policy is the user's, or nothing says how much there is. */
  limits: Limits | undefined;
}

/** Throws UserError where the longest micro-batch fits under no policy. */
export async function planRun(request: PlanRequest): Promise<RunPlanning> {
  const { options, planner, demand, evalSamples, checkpoint, attention } = request;
  const policy = request.policy && { ...request.policy, attention };
  const workload = workloadOfRun(options, checkpoint);
  const room = limitsOf(options, options.device!);
  const limits = policy ? undefined : room;
  const stepsDown = stepsDownOf(checkpoint, options);
  const evalTokens = evalSamples.reduce((most, { tokens }) => Math.max(most, tokens), 0);
  const common = { planner, workload, demand, evalTokens, stepsDown };
  const plan = new RunPlan({
    ...common,
    choice: limits
      ? { by: "planner", limits, attention }
      : { by: "user", policy: policy ?? DEFAULT_POLICY, hostBytes: room?.hostBytes },
  });
  if (plan.longest && !plan.longest.fits) {
    const misfit = { planner, workload, demand, limits: limits!, options, fixed: { attention } };
    throw await tooLittleMemory(misfit);
  }
  return { plan, workload, answers: room && answersOf(request, plan, room), limits };
}

function answersOf({ evalSamples, stopIds }: PlanRequest, plan: RunPlan, room: Limits): AnswersPlan {
  return planAnswers(evalSamples, stopIds, (shape) => plan.answer(shape, room));
}

/** Rank and targets are those of the adapter that the run starts from, where there is one. */
function workloadOfRun(options: TrainOptions, checkpoint: Checkpoint | undefined): RunWorkload {
  const {
    lora_r,
    lora_dropout: dropout,
    lora_targets,
    adapter,
    gradient_accumulation: accumulation,
  } = options;
  const folder = checkpoint?.folder ?? adapter;
  if (folder === undefined) return { rank: lora_r, dropout, targets: lora_targets, accumulation };
  return scope(() => {
    const { config, modules } = readAdapter(folder);
    const names = [...modules.keys()].map((name) => name.replaceAll(".", "\\."));
    return { rank: config.r, dropout, accumulation, targets: `^(?:${names.join("|")})$` };
  });
}

/** Where memory ran out before the run was stopped: remembered as long as there is not more or less of it. */
function stepsDownOf(checkpoint: Checkpoint | undefined, options: TrainOptions): number[] {
  if (!checkpoint) return [];
  const { stepsDown = [], options: before } = checkpoint.state;
  const isSame = (["memory", "host_memory", "policy"] as const).every(
    (key) => JSON.stringify(before[key]) === JSON.stringify(options[key]),
  );
  return isSame ? stepsDown : [];
}
