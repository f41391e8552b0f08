/** From memory, card and what the user fixed to the fastest policy that fits, the least memory, or the most of one thing that fits. */
import type { Place } from "../models/places.ts";
import type { Base, ModelConfig } from "../models/spec.ts";
import { storedUnfolded } from "../models/weights.ts";
import type { PloraWay } from "../nn/plora.ts";
import type { QuantizedPrecision } from "../nn/quantizedNames.ts";
import { type LayerPolicy, layerPolicies, type Policy, ploraName, ploraOf } from "../step/policy.ts";
import { type BatchShape, type ExactShape, gridOfTokens, largestGrid, pictureTokens } from "./batch.ts";
import { type CommonParts, gradientBytes, PartsOfSearch } from "./commonParts.ts";
import { type Speed, speedOf } from "./cost.ts";
import type { Card } from "./devices.ts";
import { type Configuration, type DryRun, dryRun, stepMs } from "./dryRun.ts";
import { dryLoss } from "./evalLoss.ts";
import { type AnswerShape, dryAnswer } from "./generation.ts";
import { type FixedPolicy, keepingLayers, leanestPolicies, policyLadder } from "./ladder.ts";
import { largestBelowGaps, largestThatFits } from "./largest.ts";
import { plannedTrace, type StepTrace } from "./stepTrace.ts";
import { UNKNOWNS, type Unknown } from "./unknowns.ts";

/** What is to be trained, as the user's options have it. */
export interface Workload {
  rank: number;
  dropout: number;
  targets: string;
  /** Tokens of the longest sample. */
  maxLength: number;
  hdNum: number;
  /** The part of a sample that is picture; without it, one picture of the most tokens that hd_num allows. */
  imageShare: number | undefined;
  batchSize: number;
  /** Micro-batches of a step, 1 without. Where there are several, the run keeps a copy of the gradients. */
  accumulation?: number | undefined;
  /** The micro-batch, where it is known: the four above say nothing then. */
  batch?: BatchShape | ExactShape | undefined;
}

export interface Limits {
  /** Of the device. */
  budgetBytes: number;
  hostBytes: number;
}

/** What the user has fixed of the policy. */
export interface Fixed extends FixedPolicy {
  policy?: Policy | undefined;
}

/** What has been chosen, and what it comes to. */
export interface Plan {
  workload: Workload;
  policy: Policy;
  run: DryRun;
  fits: boolean;
  stepMs: number;
}

/** What a run takes with a part of an evaluation, and whether it has room for that. */
export type RoomFor = Pick<Plan, "run" | "fits">;

/** A model on a device. */
export type PlannedModel = Pick<
  Configuration,
  "model" | "dtype" | "target" | "mapsWeights" | "base" | "headBase" | "visionBase" | "storedBase"
>;

/** Plans for one model on one device; what was tried once is remembered. */
export class Planner {
  readonly speed: Speed;
  readonly #model: PlannedModel;
  readonly #parts: PartsOfSearch;
  readonly #known = new Map<string, DryRun>();
  readonly #gradientBytes = new Map<string, number>();

  constructor(model: PlannedModel, speed?: Speed, parts = new PartsOfSearch()) {
    this.#model = model;
    this.#parts = parts;
    this.speed = speed ?? speedOf(model.target as Card);
  }

  get config(): ModelConfig {
    return this.#model.model;
  }

  get dtype(): Configuration["dtype"] {
    return this.#model.dtype;
  }

  /** What the decoder's linears are held in, and those of vision tower and projector; bf16: in full. */
  get base(): Base {
    return this.#model.base ?? "bf16";
  }

  get visionBase(): Base {
    return this.#model.visionBase ?? "bf16";
  }

  /** Whether PLoRA can be folded into the layers' weights as a policy has them. */
  folds({ weights }: Policy): boolean {
    return weights.source === "resident" && this.#model.storedBase === undefined;
  }

  /** Throws UserError where a policy does not fit the model. */
  check(policy: Policy): void {
    layerPolicies(policy, this.config);
    const { storedBase } = this.#model;
    if (ploraOf(policy).folded && storedBase) throw storedUnfolded(storedBase);
  }

  /** The same model on another card. */
  onCard(card: Card): Planner {
    return new Planner({ ...this.#model, target: card }, undefined, this.#parts);
  }

  /** The same model with parts of it quantised as it is loaded, which is not the checkpoint's files then. */
  withBases(bases: Partial<Record<"base" | "visionBase", QuantizedPrecision>>): Planner {
    return new Planner({ ...this.#model, ...bases, mapsWeights: false }, this.speed, this.#parts);
  }

  /** Whether the decoder's linears could be quantised in this way as they are loaded, and are not. */
  canQuantize(base: QuantizedPrecision): boolean {
    return this.base !== base && this.#model.storedBase === undefined;
  }

  /** Milliseconds of a run's micro-batch at this device's speed. */
  time(run: DryRun): number {
    return stepMs(run, this.speed);
  }

  /** How a workload goes under a policy. */
  plan(workload: Workload, policy: Policy, limits: Limits): Plan {
    const { budgetBytes, hostBytes } = limits;
    const run = this.#run(workload, policy, this.gradientCopy(workload, policy, limits));
    const fits = run.budgetedBytes <= budgetBytes && run.hostBytes <= hostBytes;
    const { speed } = this;
    return {
      ...{ workload, policy, run, fits },
      get stepMs(): number {
        return stepMs(run, speed); // reading what a run has called takes time, and many plans are only asked for bytes
      },
    };
  }

  /** Where a run keeps the copy of its gradients: on the host where there is room; undefined where it needs none. */
  gradientCopy(
    workload: Workload,
    policy: Policy,
    { hostBytes }: Pick<Limits, "hostBytes">,
  ): Place | undefined {
    if ((workload.accumulation ?? 1) === 1) return undefined;
    if (hostBytes === Number.POSITIVE_INFINITY) return "host";
    return this.gradientBytes(workload, policy) <= hostBytes ? "host" : "device";
  }

  /** Of a run's LoRA gradients, and of the copy that it keeps of them. */
  gradientBytes({ rank, dropout, targets }: Workload, policy: Policy): number {
    const key = JSON.stringify([rank, targets, policy.gradients]);
    const known = this.#gradientBytes.get(key);
    if (known !== undefined) return known;
    const bytes = gradientBytes({ ...this.#model, lora: { rank, dropout, targets }, policy });
    this.#gradientBytes.set(key, bytes);
    return bytes;
  }

  /** Every allocation of a workload's micro-batch under a policy; where it is the last of its step, of the update too. */
  trace(
    workload: Workload & Required<Pick<Workload, "batch">>,
    policy: Policy,
    limits: Limits,
    options: { isLast: boolean },
  ): StepTrace {
    const { rank, dropout, targets, batch } = workload;
    const gradientCopy = this.gradientCopy(workload, policy, limits);
    const lora = { rank, dropout, targets };
    return plannedTrace({ ...this.#model, lora, batch: batch!, policy, gradientCopy }, options);
  }

  /** Whether a run under a policy has room for an answer, and what that comes to. */
  answer(workload: Workload, policy: Policy, limits: Limits, shape: AnswerShape): RoomFor {
    return this.#evaluated(workload, policy, limits, (held, parts) => dryAnswer(held, shape, parts));
  }

  /** Whether it has room for the loss of a workload's micro-batch, forward only, and what that comes to. */
  loss(workload: Workload, policy: Policy, limits: Limits): RoomFor {
    const batch = workload.batch ?? batchOf(workload);
    return this.#evaluated(workload, policy, limits, (held, parts) => dryLoss({ ...held, batch }, parts));
  }

  #evaluated(
    workload: Workload,
    policy: Policy,
    limits: Limits,
    body: (held: Omit<Configuration, "batch">, parts: CommonParts) => DryRun,
  ): RoomFor {
    const { rank, dropout, targets } = workload;
    const gradientCopy = this.gradientCopy(workload, policy, limits);
    const lora = { rank, dropout, targets };
    const run = body({ ...this.#model, lora, policy, gradientCopy }, this.#parts.get());
    return { run, fits: run.budgetedBytes <= limits.budgetBytes && run.hostBytes <= limits.hostBytes };
  }

  #run(
    { rank, dropout, targets, accumulation: _, ...workload }: Workload,
    policy: Policy,
    gradientCopy: Place | undefined,
  ): DryRun {
    const batch = workload.batch ?? batchOf(workload);
    const key = JSON.stringify([rank, dropout, targets, batch, policy, gradientCopy]);
    const known = this.#known.get(key);
    if (known) return known;
    const lora = { rank, dropout, targets };
    const run = dryRun({ ...this.#model, lora, batch, policy, gradientCopy }, { parts: this.#parts.get() });
    this.#known.set(key, run);
    return run;
  }
}

/** The rows of a workload's micro-batch: in each sample its pictures, then text, all of it with labels. */
export function batchOf({
  maxLength,
  hdNum,
  imageShare,
  batchSize,
}: Omit<Workload, "rank" | "dropout" | "targets">): BatchShape {
  const largest = largestGrid(hdNum);
  const room = imageShare === undefined ? maxLength - 2 : Math.floor(maxLength * imageShare);
  const whole = imageShare === undefined && pictureTokens([largest]) <= room ? largest : gridOfTokens(room);
  const pictures = whole ? [whole] : [];
  const textTokens = maxLength - pictureTokens(pictures);
  return { samples: batchSize, sampleTokens: maxLength, pictures, labelTokens: Math.max(1, textTokens - 1) };
}

/** Every rung of the ladder, the given policy alone where there is one. */
export function planRungs(planner: Planner, workload: Workload, limits: Limits, fixed: Fixed): Plan[] {
  const policies = fixed.policy ? [fixed.policy] : policyLadder(planner.config, fixed);
  return policies.map((policy) => planner.plan(workload, policy, limits));
}

/** The fastest policy that fits; where none does, the one that comes nearest. */
export function fastestPlan(planner: Planner, workload: Workload, limits: Limits, fixed: Fixed = {}): Plan {
  const rungs = planRungs(planner, workload, limits, fixed);
  const fitting = rungs.filter(({ fits }) => fits);
  if (fitting.length === 0) return leastMemory(planner, workload, limits, fixed);
  if (fixed.policy) return fitting[0]!;
  const fetching = changedWhereFaster(planner, fitting, limits, (policy) => fetchingAhead(policy, planner));
  return keepWhatFits(planner, withFastestPlora(planner, [fetching, ...fitting], limits, fixed), limits);
}

/** The fastest of plans that fit, with PLoRA as is faster still: in a run whose model is loaded, only as that allows. */
function withFastestPlora(planner: Planner, fitting: readonly Plan[], limits: Limits, fixed: Fixed): Plan {
  const having = (best: readonly Plan[], folded: boolean, branch: PloraWay): Plan =>
    changedWhereFaster(planner, [...best, ...fitting], limits, (policy) =>
      folded && !planner.folds(policy) ? undefined : { ...policy, plora: ploraName({ folded, branch }) },
    );
  const merging = having([], fixed.folded ?? false, "merged");
  if (fixed.folded !== undefined) return merging;
  const folding = having([merging], true, "apart");
  return ploraOf(folding.policy).folded ? having([folding], true, "merged") : merging;
}

/**
 * The fastest of plans that fit, with a change where that fits and is faster still. What it saves hangs on shapes, nearly the same for every
 * policy that it can be made to, so the first of them that has room for it is the fastest.
 */
function changedWhereFaster(
  planner: Planner,
  fitting: readonly Plan[],
  limits: Limits,
  change: (policy: Policy) => Policy | undefined,
): Plan {
  const byTime = fitting.toSorted((one, other) => one.stepMs - other.stepMs);
  const fastest = byTime[0]!;
  for (const { workload, policy } of byTime) {
    const changed = change(policy);
    if (!changed) continue;
    const plan = planner.plan(workload, changed, limits);
    if (plan.stepMs >= fastest.stepMs) break;
    if (plan.fits) return plan;
  }
  return fastest;
}

/** With the input of the layer that goes back next fetched from the host while one goes back; undefined where none lies there. */
function fetchingAhead(policy: Policy, { config }: Planner): Policy | undefined {
  const isOnHost = layerPolicies(policy, config).some(({ boundary }) => boundary === "host");
  return isOnHost ? { ...policy, boundaryAhead: true } : undefined;
}

/** The policy that takes the least of the device within what the host has; of any, where the host has too little for all. */
export function leastMemory(planner: Planner, workload: Workload, limits: Limits, fixed: Fixed = {}): Plan {
  const lean = leanest(planner, limits, fixed).map((policy) => planner.plan(workload, policy, limits));
  const all = [...planRungs(planner, workload, limits, fixed), ...lean];
  const possible = all.filter(({ run }) => run.hostBytes <= limits.hostBytes);
  return (possible.length > 0 ? possible : all).reduce((best, plan) =>
    plan.run.budgetedBytes < best.run.budgetedBytes ? plan : best,
  );
}

/** The largest value of one thing with which something fits, and the fastest policy there; undefined where not even the least fits. */
export function solve(
  planner: Planner,
  unknown: Unknown,
  workload: Workload,
  limits: Limits,
  fixed: Fixed = {},
): { solved: number; plan: Plan } | undefined {
  const { key, least, most } = UNKNOWNS[unknown];
  let best: { solved: number; plan: Plan } | undefined;
  for (const policy of leanest(planner, limits, fixed)) {
    const at = (value: number): Plan => planner.plan(withValue(workload, key, value), policy, limits);
    const from = best ? best.solved + 1 : least;
    if (best && !at(Math.ceil(from * NEAR)).fits) continue;
    const solved = largestBelowGaps((value) => shortage(at(value).run, limits), {
      ...{ least: from, most, from: best ? 2 * from : workload[key] },
    });
    if (solved !== undefined) best = { solved, plan: at(solved) };
    if (best && !isShortOfHost(best.plan, limits)) break;
  }
  return best;
}

/** How much better another policy has to be to be worth the search. */
const NEAR = 1.02;

/** Whether it is the host that a little more would not fit. */
function isShortOfHost({ run }: Plan, { hostBytes, budgetBytes }: Limits): boolean {
  return run.hostBytes / hostBytes > run.budgetedBytes / budgetBytes;
}

/** What a workload takes under the leanest policy, whatever the host has. */
export function leanestPlan(planner: Planner, workload: Workload, limits: Limits, fixed: Fixed): Plan {
  return planner.plan(
    workload,
    leanest(planner, { ...limits, hostBytes: Number.POSITIVE_INFINITY }, fixed)[0]!,
    limits,
  );
}

/** Without a limit on the host there is one leanest policy; with it, which one lets the most fit depends. */
function leanest(planner: Planner, { hostBytes }: Limits, fixed: Fixed): Policy[] {
  if (fixed.policy) return [fixed.policy];
  const policies = leanestPolicies(planner.config, fixed);
  return Number.isFinite(hostBytes) ? policies : policies.slice(0, 1);
}

/** hd_num needs room for its picture: a sample as long as its worst case and a dialogue. */
function withValue(workload: Workload, key: (typeof UNKNOWNS)[Unknown]["key"], value: number): Workload {
  if (key !== "hdNum") return { ...workload, [key]: value };
  const tokens = pictureTokens([largestGrid(value)]);
  return { ...workload, hdNum: value, maxLength: Math.max(workload.maxLength, tokens + DIALOGUE_TOKENS) };
}

/** Text that a picture comes with where nothing else is said. */
export const DIALOGUE_TOKENS = 256;

/** How much is wanting, in parts of the limits: negative where it fits. */
function shortage({ budgetedBytes, hostBytes }: DryRun, limits: Limits): number {
  return Math.max(budgetedBytes / limits.budgetBytes, hostBytes === 0 ? 0 : hostBytes / limits.hostBytes) - 1;
}

/** Uses the room that is left for layers that are not computed again: as many as fit, of what is fastest. */
function keepWhatFits(planner: Planner, plan: Plan, limits: Limits): Plan {
  const { config } = planner;
  const keeping = (before: Plan, keep: LayerPolicy["keep"]): Plan => {
    const at = (count: number): Plan =>
      planner.plan(before.workload, keepingLayers(before.policy, config, count, keep), limits);
    const count = largestThatFits((layers) => shortage(at(layers).run, limits), {
      least: 1,
      most: config.layers,
      from: 2,
    });
    return count === undefined ? before : at(count);
  };
  const attention = keeping(plan, "attention");
  return [plan, keeping(plan, "all"), attention, keeping(attention, "all")].reduce(faster);
}

function faster(one: Plan, other: Plan): Plan {
  return other.stepMs < one.stepMs ? other : one;
}
