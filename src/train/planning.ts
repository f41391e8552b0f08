/** The plan of a run, made from its options and its data before anything is loaded. */
import { readAdapter } from "../checkpoint/peft.ts";
import type { PreparedSample } from "../data/validate.ts";
import type { Limits, Planner } from "../plan/search.ts";
import { DEFAULT_POLICY, type Policy, ploraName, ploraOf } from "../step/policy.ts";
import { scope } from "../torch/tensor.ts";
import { type AnswersPlan, planAnswers } from "./answers.ts";
import type { Checkpoint } from "./checkpoints.ts";
import type { Demand } from "./demand.ts";
import { lossTooLarge } from "./evalRefusal.ts";
import { LossPlan } from "./lossPlan.ts";
import type { TrainOptions } from "./options.ts";
import { limitsOf } from "./planner.ts";
import { type Misfit, tooLittleMemory } from "./refusal.ts";
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
  /** Of the evaluations; undefined where there are none. */
  losses: LossPlan | undefined;
  /** Of the evaluations; undefined where nothing says how much memory there is. */
  answers: AnswersPlan | undefined;
  /** What was planned within; undefined where the policy is the user's, or nothing says how much there is. */
  limits: Limits | undefined;
}

/** Throws UserError where the longest micro-batch fits under no policy, or the loss of a sample of the evaluation. */
export async function planRun(request: PlanRequest): Promise<RunPlanning> {
  const { options, planner, demand, stopIds, checkpoint, attention } = request;
  const policy = request.policy && { ...request.policy, attention };
  const workload = workloadOfRun(options, checkpoint);
  const room = limitsOf(options, options.device!);
  const limits = policy ? undefined : room;
  const stepsDown = stepsDownOf(checkpoint, options, "stepsDown");
  const common = { planner, workload, demand, stepsDown };
  const folded = checkpoint?.state.folded;
  const plan = new RunPlan({
    ...common,
    choice: limits
      ? { by: "planner", limits, attention, folded }
      : { by: "user", policy: policy ?? defaultPolicy(planner, folded), hostBytes: room?.hostBytes },
  });
  const misfitOf = (limits: Limits): Misfit => {
    return { planner, workload, demand, limits, options, fixed: { attention } };
  };
  if (plan.longest && !plan.longest.fits) throw await tooLittleMemory(misfitOf(limits!));
  const losses = lossesOf(request, plan, room);
  if (losses && losses.left.length > 0 && !(options.skip_bad && losses.kept.length > 0))
    throw await lossTooLarge(losses, plan, misfitOf(room!));
  const answers = room && planAnswers(losses?.kept ?? [], stopIds, (shape) => plan.answer(shape, room));
  return { plan, workload, losses, answers, limits };
}

/** Of a run that is not planned, whose weights have PLoRA folded into them as before where that can be. */
function defaultPolicy(planner: Planner, folded = false): Policy {
  const { branch } = ploraOf(DEFAULT_POLICY);
  return { ...DEFAULT_POLICY, plora: ploraName({ folded: folded && planner.folds(DEFAULT_POLICY), branch }) };
}

function lossesOf(
  { evalSamples: samples, checkpoint, options }: PlanRequest,
  plan: RunPlan,
  room: Limits | undefined,
): LossPlan | undefined {
  if (samples.length === 0) return undefined;
  return new LossPlan({ plan, samples, room, stepsDown: stepsDownOf(checkpoint, options, "evalStepsDown") });
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
function stepsDownOf(
  checkpoint: Checkpoint | undefined,
  options: TrainOptions,
  of: "stepsDown" | "evalStepsDown",
): number[] {
  if (!checkpoint) return [];
  const { [of]: stepsDown = [], options: before } = checkpoint.state;
  const isSame = (["memory", "host_memory", "policy"] as const).every(
    (key) => JSON.stringify(before[key]) === JSON.stringify(options[key]),
  );
  return isSame ? stepsDown : [];
}
