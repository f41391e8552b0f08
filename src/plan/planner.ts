/** A model on a device, and how a workload goes there under a policy: what was tried once is remembered. */

import type { ModelConfig } from "../models/family.ts";
import type { Place } from "../models/places.ts";
import type { Base } from "../models/precision/bases.ts";
import { storedUnfolded } from "../models/weights.ts";
import type { QuantizedPrecision } from "../nn/frozen/storedNames.ts";
import { holdsFolded, layerPolicies, type Policy, ploraOf } from "../step/policy.ts";
import { abilitiesOf } from "../torch/device.ts";
import { plannedTrace, type StepTrace } from "./dryRun/allocations.ts";
import { type AnswerShape, dryAnswer } from "./dryRun/answerRun.ts";
import { type BatchShape, batchOf, type ExactShape, type SampleShape } from "./dryRun/batchShapes.ts";
import { type Configuration, type DryRun, dryRun, type LoraShape, stepMs } from "./dryRun/dryRun.ts";
import { dryLoss } from "./dryRun/lossRun.ts";
import { type CommonParts, gradientBytes, PartsOfSearch } from "./dryRun/sharedParts.ts";
import { storedBaseOf } from "./dryRun/storedParts.ts";
import { type Card, capabilityOf } from "./time/cards.ts";
import { isCpuSpeed } from "./time/cpuSpeed.ts";
import { type Speed, speedOf } from "./time/stepTime.ts";

/** The part of a workload that is the same for all micro-batches of a run. */
export interface RunWorkload extends LoraShape {
  /** Micro-batches of a step; 1 if undefined. With several, the run keeps a copy of the gradients. */
  accumulation?: number | undefined;
}

/** A workload whose micro-batch follows from sizes that the user gives. */
export interface SizedWorkload extends RunWorkload, SampleShape {}

/** A workload whose micro-batch is known. */
export interface ShapedWorkload extends RunWorkload {
  batch: BatchShape | ExactShape;
}

export type Workload = SizedWorkload | ShapedWorkload;

/** Returns the shape of a workload's micro-batch. */
function shapeOf(workload: Workload): BatchShape | ExactShape {
  return "batch" in workload ? workload.batch : batchOf(workload);
}

/** Returns a workload's LoRA factors alone. */
function loraOf({ rank, ranks, dropout, targets }: RunWorkload): LoraShape {
  return { rank, ...(ranks && { ranks }), dropout, targets };
}

/** Bytes that a plan may need; infinite without a limit. */
export interface Limits {
  /** On the device. */
  budgetBytes: number;
  /** On the host. */
  hostBytes: number;
  /** On both together, for a CPU, whose two pools share the machine's memory; undefined: no such limit. */
  sumBytes?: number | undefined;
}

/**
 * Returns how far a run exceeds its tightest limit, as a share of that limit; zero or less if the run fits.
 */
export function shortage(
  { budgetedBytes, hostBytes }: Pick<DryRun, "budgetedBytes" | "hostBytes">,
  { sumBytes = Number.POSITIVE_INFINITY, ...limits }: Limits,
): number {
  const hostShare = hostBytes === 0 ? 0 : hostBytes / limits.hostBytes;
  const sumShare = (budgetedBytes + hostBytes) / sumBytes;
  return Math.max(budgetedBytes / limits.budgetBytes, hostShare, sumShare) - 1;
}

/** A workload under a policy, with its memory and time. */
export interface Plan<Asked extends Workload = Workload> {
  workload: Asked;
  policy: Policy;
  run: DryRun;
  fits: boolean;
  stepMs: number;
}

export type SizedPlan = Plan<SizedWorkload>;

/** A run with a part of an evaluation, and whether it fits. */
export type RoomFor = Pick<Plan, "run" | "fits">;

/** A model on a device. */
export type PlannedModel = Pick<
  Configuration,
  "model" | "dtype" | "target" | "mapsWeights" | "base" | "headBase" | "visionBase" | "stored"
>;

/** Runs that were tried on cards that are alike, with the context that is counted in them. */
interface KnownRuns {
  contextBytes: number;
  runs: Map<string, DryRun>;
}

/** Plans for one model on one device; what was tried once is remembered. */
export class Planner {
  readonly speed: Speed;
  readonly #model: PlannedModel;
  readonly #parts: PartsOfSearch;
  readonly #known: KnownRuns;
  /** Known runs of all cards that were asked about, by what they allocate. */
  readonly #family: Map<string, KnownRuns>;
  readonly #gradientBytes = new Map<string, number>();

  constructor(
    model: PlannedModel,
    speed?: Speed,
    parts = new PartsOfSearch(),
    family = new Map<string, KnownRuns>(),
  ) {
    this.#model = model;
    this.#parts = parts;
    this.#family = family;
    this.speed = speed ?? speedOf(model.target as Card);
    const key = allocationKey(model);
    this.#known = family.get(key) ?? { contextBytes: contextOf(model), runs: new Map() };
    family.set(key, this.#known);
  }

  get config(): ModelConfig {
    return this.#model.model;
  }

  /**
   * Calls `onDryRun` after each dry run of this planner and of those made from it, so that a search can show
   * progress.
   */
  watch(onDryRun: () => void): void {
    this.#parts.onDryRun = onDryRun;
  }

  get dtype(): Configuration["dtype"] {
    return this.#model.dtype;
  }

  /** Precision of the decoder's linears; bf16: as wide as computing. */
  get base(): Base {
    return this.#model.base ?? "bf16";
  }

  get visionBase(): Base {
    return this.#model.visionBase ?? "bf16";
  }

  /** Whether PLoRA can be folded into the layers' weights as a policy has them. */
  folds(policy: Policy): boolean {
    return holdsFolded(policy) && storedBaseOf(this.#model) === undefined;
  }

  /** Throws UserError where a policy does not fit the model. */
  check(policy: Policy): void {
    layerPolicies(policy, this.config);
    const storedBase = storedBaseOf(this.#model);
    if (ploraOf(policy).folded && storedBase) throw storedUnfolded(storedBase);
  }

  /** Returns a planner of this model on another card; cards that allocate alike share their known runs. */
  onCard(card: Card): Planner {
    return new Planner({ ...this.#model, target: card }, undefined, this.#parts, this.#family);
  }

  /** A key that cards which allocate alike share, whatever CUDA's context takes. */
  get allocationKey(): string {
    return allocationKey(this.#model);
  }

  /**
   * Returns a planner of this model with parts quantised as it is loaded; these are not the checkpoint's
   * files then.
   */
  withBases(bases: Partial<Record<"base" | "visionBase", QuantizedPrecision>>): Planner {
    return new Planner({ ...this.#model, ...bases }, this.speed, this.#parts);
  }

  /** Whether the decoder's linears could be quantised in this way as they are loaded, and are not. */
  canQuantize(base: QuantizedPrecision): boolean {
    return this.base !== base && storedBaseOf(this.#model) === undefined;
  }

  /** Where times come from: nobody has timed a card, and a CPU only where a plan for it was asked for. */
  get timesBy(): string {
    if (this.#model.target !== "cpu") return "the card's data sheet";
    return isCpuSpeed(this.speed) ? "what was measured of this CPU" : "round figures for any CPU";
  }

  /** Milliseconds of a run's micro-batch at this device's speed. */
  time(run: DryRun): number {
    return stepMs(run, this.speed);
  }

  /** How a workload goes under a policy. */
  plan<Asked extends Workload>(workload: Asked, policy: Policy, limits: Limits): Plan<Asked> {
    const run = this.#run(workload, policy, this.gradientCopy(workload, policy, limits));
    const fits = shortage(run, limits) <= 0;
    const { speed } = this;
    return {
      ...{ workload, policy, run, fits },
      get stepMs(): number {
        return stepMs(run, speed); // reading what a run has called takes time, and many plans are only asked for bytes
      },
    };
  }

  /**
   * Where a run keeps the copy of its gradients: on the host where there is room; undefined where it needs
   * none.
   */
  gradientCopy(
    workload: RunWorkload,
    policy: Policy,
    { hostBytes }: Pick<Limits, "hostBytes">,
  ): Place | undefined {
    if ((workload.accumulation ?? 1) === 1) return undefined;
    if (hostBytes === Number.POSITIVE_INFINITY) return "host";
    return this.gradientBytes(workload, policy) <= hostBytes ? "host" : "device";
  }

  /** Returns the bytes of a run's LoRA gradients, which are those of their copy. */
  gradientBytes(workload: RunWorkload, policy: Policy): number {
    const lora = loraOf(workload);
    const key = JSON.stringify([lora, policy.gradients]);
    const known = this.#gradientBytes.get(key);
    if (known !== undefined) return known;
    const bytes = gradientBytes({ ...this.#model, lora, policy });
    this.#gradientBytes.set(key, bytes);
    return bytes;
  }

  /**
   * Every allocation of a workload's micro-batch under a policy; where it is the last of its step, of the
   * update too.
   */
  trace(workload: ShapedWorkload, policy: Policy, limits: Limits, options: { isLast: boolean }): StepTrace {
    const gradientCopy = this.gradientCopy(workload, policy, limits);
    const { batch } = workload;
    return plannedTrace({ ...this.#model, lora: loraOf(workload), batch, policy, gradientCopy }, options);
  }

  /** Whether a run under a policy has room for an answer, and what that comes to. */
  answer(workload: RunWorkload, policy: Policy, limits: Limits, shape: AnswerShape): RoomFor {
    return this.#evaluated(workload, policy, limits, (held, parts) => dryAnswer(held, shape, parts));
  }

  /** Whether it has room for the loss of a workload's micro-batch, forward only, and what that comes to. */
  loss(workload: Workload, policy: Policy, limits: Limits): RoomFor {
    const batch = shapeOf(workload);
    return this.#evaluated(workload, policy, limits, (held, parts) => dryLoss({ ...held, batch }, parts));
  }

  #evaluated(
    workload: RunWorkload,
    policy: Policy,
    limits: Limits,
    body: (held: Omit<Configuration, "batch">, parts: CommonParts) => DryRun,
  ): RoomFor {
    const gradientCopy = this.gradientCopy(workload, policy, limits);
    const run = body({ ...this.#model, lora: loraOf(workload), policy, gradientCopy }, this.#parts.get());
    return { run, fits: shortage(run, limits) <= 0 };
  }

  #run(workload: Workload, policy: Policy, gradientCopy: Place | undefined): DryRun {
    const batch = shapeOf(workload);
    const lora = loraOf(workload);
    const key = JSON.stringify([lora, batch, policy, gradientCopy]);
    const { runs, contextBytes } = this.#known;
    const moreBytes = contextOf(this.#model) - contextBytes;
    const known = runs.get(key);
    if (known) return inContext(known, moreBytes);
    const run = dryRun({ ...this.#model, lora, batch, policy, gradientCopy }, { parts: this.#parts.get() });
    runs.set(key, inContext(run, -moreBytes));
    this.#parts.onDryRun?.();
    return run;
  }
}

/**
 * Returns all of a device that its allocations depend on; whether it multiplies fp8 matters only if something
 * is held in fp8.
 */
function allocationKey({ target, base, visionBase }: PlannedModel): string {
  if (target === "cpu") return target;
  const isHeldInFp8 = [base, visionBase].includes("fp8");
  const abilities = abilitiesOf(capabilityOf(target)).filter((ability) => ability !== "fp8" || isHeldInFp8);
  return `${abilities} ${target.workspaceBytes}`;
}

function contextOf({ target }: PlannedModel): number {
  return target === "cpu" ? 0 : target.contextBytes;
}

/** A run as a card has it whose context takes so much more. */
function inContext(run: DryRun, moreBytes: number): DryRun {
  return moreBytes === 0 ? run : { ...run, budgetedBytes: run.budgetedBytes + moreBytes };
}
