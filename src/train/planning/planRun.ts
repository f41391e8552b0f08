/** Plans a run from its options and its data, before anything is loaded. */
import { readAdapter } from "../../checkpoint/adapter/peft.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import type { StepDown } from "../../plan/ladder.ts";
import type { Limits, Planner, RunWorkload } from "../../plan/planner.ts";
import { DEFAULT_POLICY, POLICY_OPTION_NAMES, Policy, ploraName, ploraOf } from "../../step/policy.ts";
import { scope } from "../../torch/tensor.ts";
import type { Demand } from "../data/memoryDemand.ts";
import type { Checkpoint } from "../folder/checkpoints.ts";
import type { TrainOptions } from "../options/options.ts";
import { type ClassPolicy, hasParts, ofAllLengths, withParts } from "../options/policyFiles.ts";
import { type AnswersPlan, planAnswers } from "./answerPlan.ts";
import { LossPlan } from "./evalLossPlan.ts";
import { lossTooLarge } from "./evalTooLarge.ts";
import { type Choice, RunPlan } from "./policyByLength.ts";
import { type Misfit, tooLittleMemory } from "./tooLittleMemory.ts";

export interface PlanRequest {
  options: TrainOptions;
  planner: Planner;
  demand: Demand;
  /** Tokens of the coming micro-batches. */
  lengths: Iterable<number>;
  evalSamples: readonly PreparedSample[];
  /** Ids that end an answer. */
  stopIds: readonly number[];
  checkpoint: Checkpoint | undefined;
  /** The user's own policies; undefined: planned. */
  policies: readonly ClassPolicy[] | undefined;
  /** Policies that rank 0 has chosen, for another rank. */
  first?: readonly ClassPolicy[] | undefined;
  /** The memory limits of the run; undefined: none is known. */
  limits: Limits | undefined;
  /** The attention kernel of the run; "measured" on the CPU, which has one of its own. */
  attention: Policy["attention"];
}

export interface RunPlanning {
  plan: RunPlan;
  workload: RunWorkload;
  /** Losses of the evaluations; undefined without evaluations. */
  losses: LossPlan | undefined;
  /** Answers of the evaluations; undefined if no memory limit is known. */
  answers: AnswersPlan | undefined;
  /** Memory limits of the plan; undefined if the policy is the user's, or no limit is known. */
  limits: Limits | undefined;
}

/**
 * Plans a run. Throws UserError if the longest micro-batch, or the loss of a sample to evaluate, fits under
 * no policy.
 */
export async function planRun(request: PlanRequest): Promise<RunPlanning> {
  const { options, planner, demand, stopIds, checkpoint, attention, limits: room } = request;
  const workload = workloadOfRun(options, checkpoint);
  const planned = (choice: Choice, stepsDown: StepDown[]): RunPlan => {
    const plan = new RunPlan({ planner, workload, demand, choice, stepsDown });
    // chooses the policies now, so that they are known before the run begins
    for (const tokens of request.lengths) plan.policyFor(tokens);
    return plan;
  };
  const choice = choiceOf(request, room, (choice) => planned(choice, []).policies);
  const plan = planned(choice, stepsDownOf(checkpoint, options, "stepsDown"));
  const limits = choice.by === "planner" ? choice.limits : undefined;
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

/**
 * Chooses who decides the policies: the planner within limits, or the user. The user's single choices go into
 * the run's earlier policies or the default.
 */
function choiceOf(
  { options, planner, checkpoint, policies, attention, first }: PlanRequest,
  room: Limits | undefined,
  planned: (choice: Choice) => readonly ClassPolicy[],
): Choice {
  const hostBytes = room?.hostBytes;
  const settled = (known: readonly ClassPolicy[]): ClassPolicy[] =>
    known.map(({ upToTokens, policy }) => ({ upToTokens, policy: { ...policy, attention } }));
  if (policies) return { by: "user", policies: settled(policies), hostBytes };
  const folded = checkpoint?.state.folded;
  const before = first ?? policiesBefore(checkpoint, options);
  const known = before && settled(before);
  const byPlanner: Choice | undefined = room && { by: "planner", limits: room, attention, folded, known };
  if (byPlanner && !hasParts(options)) return byPlanner;
  const ofRun = known ?? (checkpoint && byPlanner && planned(byPlanner));
  const base = ofRun ?? settled([ofAllLengths(defaultPolicy(planner, folded))]);
  const given = base.map(({ upToTokens, policy }) => ({ upToTokens, policy: withParts(policy, options) }));
  for (const { policy } of given) planner.check(policy);
  return { by: "user", policies: given, hostBytes };
}

/** Returns the policies that the run had, if what they were chosen for has not changed. */
function policiesBefore(
  checkpoint: Checkpoint | undefined,
  options: TrainOptions,
): readonly ClassPolicy[] | undefined {
  if (!checkpoint || !hasSameRoom(checkpoint, options)) return undefined;
  const { policies, options: before } = checkpoint.state;
  const isLeftOut = POLICY_OPTION_NAMES.some(
    (part) => before[part] !== undefined && options[part] === undefined,
  );
  return isLeftOut
    ? undefined
    : policies?.map(({ upToTokens, policy }) => ({
        upToTokens: upToTokens ?? Number.POSITIVE_INFINITY,
        policy: Policy.parse(policy),
      }));
}

/**
 * Returns the policy of a run that is not planned. PLoRA stays folded into the weights if it was and can be.
 */
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

/**
 * Describes the workload. Rank and targets are those of the adapter that the run starts from, if there is
 * one.
 */
function workloadOfRun(options: TrainOptions, checkpoint: Checkpoint | undefined): RunWorkload {
  const {
    lora_r,
    lora_dropout: dropout,
    lora_targets,
    adapter,
    gradient_accumulation: accumulation,
    exact_sum: exactSum,
  } = options;
  const folder = checkpoint?.folder ?? adapter;
  if (folder === undefined) return { rank: lora_r, dropout, targets: lora_targets, accumulation, exactSum };
  return scope(() => {
    const { config, modules } = readAdapter(folder);
    const names = [...modules.keys()].map((name) => name.replaceAll(".", "\\."));
    const ranks = Object.fromEntries([...modules].map(([name, { a }]) => [name, a.shape[0]!]));
    return { rank: config.r, ranks, dropout, accumulation, exactSum, targets: `^(?:${names.join("|")})$` };
  });
}

/**
 * Returns the steps to leaner policies that the run took before it was stopped; none if its memory limits
 * have changed.
 */
function stepsDownOf(
  checkpoint: Checkpoint | undefined,
  options: TrainOptions,
  of: "stepsDown" | "evalStepsDown",
): StepDown[] {
  const steps = checkpoint && hasSameRoom(checkpoint, options) ? (checkpoint.state[of] ?? []) : [];
  return steps.map((step) => (typeof step === "number" ? { tokens: step } : step));
}

/** Whether a run continues with the same memory limits and policies. */
function hasSameRoom({ state: { options: before } }: Checkpoint, options: TrainOptions): boolean {
  return (["memory", "host_memory", "policy"] as const).every(
    (key) => JSON.stringify(before[key]) === JSON.stringify(options[key]),
  );
}
