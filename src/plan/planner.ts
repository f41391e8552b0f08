/** Plans a workload for a model on a device under a policy. It remembers what it has tried. */

import { hasBranches, pictureFormOf } from "../models/families.ts";
import type { ModelConfig } from "../models/family.ts";
import type { Place } from "../models/places.ts";
import type { Base } from "../models/precision/bases.ts";
import { storedUnfolded } from "../models/weights.ts";
import type { QuantizedPrecision } from "../nn/frozen/storedNames.ts";
import { refuseUnevenHeads } from "../step/ownRows.ts";
import { holdsFolded, layerPolicies, type Policy, ploraOf } from "../step/policy.ts";
import { abilitiesOf } from "../torch/device.ts";
import { plannedTrace, type StepTrace, type TraceOptions } from "./dryRun/allocations.ts";
import { type AnswerShape, dryAnswer } from "./dryRun/answerRun.ts";
import { type BatchShape, batchOf, type ExactShape, type SampleShape } from "./dryRun/batchShapes.ts";
import type { Configuration, LoraShape } from "./dryRun/configuration.ts";
import { type DryRun, dryRun, stepMs } from "./dryRun/dryRun.ts";
import { dryLoss } from "./dryRun/lossRun.ts";
import { type CommonParts, gradientBytes, PartsOfSearch } from "./dryRun/sharedParts.ts";
import type { StepEvent } from "./dryRun/stepEvents.ts";
import { storedBaseOf } from "./dryRun/storedParts.ts";
import { type Card, capabilityOf } from "./time/cards.ts";
import { isCpuSpeed } from "./time/cpuSpeed.ts";
import type { Wiring } from "./time/links/links.ts";
import { type Speed, speedOf } from "./time/stepTime.ts";

/** The part of a workload that is the same for all micro-batches of a run. */
export interface RunWorkload extends LoraShape {
  /** Micro-batches of a step; 1 if undefined. With several, the run keeps a copy of the gradients. */
  accumulation?: number | undefined;
  /** Whether gradients are added up after each round of micro-batches; then the run keeps no copy of them. */
  exactSum?: boolean | undefined;
}

/** A workload whose micro-batch follows from sizes that the user gives. */
export interface SizedWorkload extends RunWorkload, SampleShape {}

/** A workload whose micro-batch is known. */
export interface ShapedWorkload extends RunWorkload {
  batch: BatchShape | ExactShape;
}

export type Workload = SizedWorkload | ShapedWorkload;

/** Returns the shape of a workload's micro-batch. */
function shapeOf(workload: Workload, config: ModelConfig): BatchShape | ExactShape {
  return "batch" in workload ? workload.batch : batchOf(workload, pictureFormOf(config));
}

/** Returns a workload's LoRA factors alone. */
function loraOf({ rank, ranks, dropout, targets }: RunWorkload): LoraShape {
  return { rank, ...(ranks && { ranks }), dropout, targets };
}

/** Bytes that a plan may need; infinite without a limit. */
export interface Limits {
  /** Bytes on the device. */
  budgetBytes: number;
  /** Bytes on the host. */
  hostBytes: number;
  /**
   * Bytes on both together, for a CPU, whose two pools share the machine's memory; undefined: no such limit.
   */
  sumBytes?: number | undefined;
}

/**
 * Returns how far a run exceeds its tightest limit, as a share of that limit; zero or less if the run fits.
 */
export function shortage(
  { budgetedBytes, hostBytes, machineBytes }: Pick<DryRun, "budgetedBytes" | "hostBytes" | "machineBytes">,
  { sumBytes = Number.POSITIVE_INFINITY, ...limits }: Limits,
): number {
  const hostShare = hostBytes === 0 ? 0 : hostBytes / limits.hostBytes;
  const sumShare = machineBytes / sumBytes;
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

/** A run that includes a part of an evaluation, and whether it fits. */
export type RoomFor = Pick<Plan, "run" | "fits">;

/** A model on a device. */
export type PlannedModel = Pick<
  Configuration,
  "model" | "dtype" | "target" | "mapsWeights" | "base" | "headBase" | "visionBase" | "stored" | "ranks"
> & {
  /** Ranks that share the rows of each micro-batch; undefined: nobody shares them. */
  rowSharers?: number | undefined;
  /** Which of them is planned; undefined: the one that needs the most. */
  sharer?: number | undefined;
};

/** Known runs on cards that allocate alike, with the context bytes that are counted in them. */
interface KnownRuns {
  contextBytes: number;
  runs: Map<string, DryRun>;
}

/** Plans for one model on one device. A planner remembers what it has tried. */
export class Planner {
  readonly speed: Speed;
  readonly #model: PlannedModel;
  readonly #parts: PartsOfSearch;
  readonly #known: KnownRuns;
  /** Known runs of all cards asked about so far, by allocation key. */
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
   * Calls `onDryRun` after each dry run of this planner and of planners made from it, so that a search can
   * show progress.
   */
  watch(onDryRun: () => void): void {
    this.#parts.onDryRun = onDryRun;
  }

  get dtype(): Configuration["dtype"] {
    return this.#model.dtype;
  }

  /** Precision of the decoder's linears; bf16: the computing dtype. */
  get base(): Base {
    return this.#model.base ?? "bf16";
  }

  get visionBase(): Base {
    return this.#model.visionBase ?? "bf16";
  }

  /** Tells whether PLoRA can be folded into the layers' weights as a policy holds them. */
  folds(policy: Policy): boolean {
    return hasBranches(this.config) && holdsFolded(policy) && storedBaseOf(this.#model) === undefined;
  }

  /** Throws UserError if a policy does not fit the model. */
  check(policy: Policy): void {
    layerPolicies(policy, this.config, this.#model.rowSharers);
    const storedBase = storedBaseOf(this.#model);
    if (ploraOf(policy).folded && storedBase) throw storedUnfolded(storedBase);
  }

  /** Returns a planner of this model on another card; cards that allocate alike share their known runs. */
  onCard(card: Card): Planner {
    const speed = { ...speedOf(card), wiring: this.wiring };
    return new Planner({ ...this.#model, target: card }, speed, this.#parts, this.#family);
  }

  /** Number of ranks that the planned one trains with, itself included. */
  get ranks(): number {
    return this.#model.ranks?.count ?? 1;
  }

  /** How the ranks are joined, for a planner of one of them. */
  get wiring(): Wiring | undefined {
    return this.speed.wiring;
  }

  /** Returns a planner of one of the ranks of a run. */
  amongRanks(rank: number, wiring: Wiring): Planner {
    const { count, perMachine } = wiring;
    const ranks = count > 1 ? { rank, count, perMachine } : undefined;
    return new Planner({ ...this.#model, ranks }, { ...this.speed, wiring }, this.#parts, this.#family);
  }

  /**
   * Returns a planner of one rank and no other. A planner of ranks that share rows otherwise plans the one of
   * them that needs the most. rank: of the run; undefined: the planned one.
   */
  asRank(rank = this.#model.ranks?.rank ?? 0): Planner {
    const { ranks } = this.#model;
    const one = { ...this.#model, ...(ranks && { ranks: { ...ranks, rank } }) };
    return new Planner({ ...one, sharer: rank % this.rowSharers }, this.speed, this.#parts, this.#family);
  }

  /** A key that all cards share that allocate alike, whatever memory CUDA's context needs. */
  get allocationKey(): string {
    return allocationKey(this.#model);
  }

  /**
   * Returns a planner of ranks of which each `count` share the rows of a micro-batch. It plans the one that
   * needs the most.
   */
  sharingRows(count: number): Planner {
    refuseUnevenHeads(this.config, count);
    const rowSharers = count > 1 ? count : undefined;
    return new Planner({ ...this.#model, rowSharers }, this.speed, this.#parts, this.#family);
  }

  /** Ranks that share the rows of a micro-batch; 1 if nobody does. */
  get rowSharers(): number {
    return this.#model.rowSharers ?? 1;
  }

  /** Micro-batches that ranks compute at the same time. */
  get atOnce(): number {
    return (this.wiring?.count ?? 1) / this.rowSharers;
  }

  /** The model's sizes as one rank's attention sees them: with its own kv heads. */
  get configOfRank(): ModelConfig {
    const { config } = this;
    return { ...config, kvHeads: config.kvHeads / this.rowSharers };
  }

  /**
   * Returns a planner of this model with parts that are quantised while the model is loaded. These parts are
   * then not mapped from the checkpoint's files.
   */
  withBases(bases: Partial<Record<"base" | "visionBase", QuantizedPrecision>>): Planner {
    return new Planner({ ...this.#model, ...bases }, this.speed, this.#parts);
  }

  /** Tells whether loading could quantise the decoder's linears to this precision, and does not yet. */
  canQuantize(base: QuantizedPrecision): boolean {
    return this.base !== base && storedBaseOf(this.#model) === undefined;
  }

  /**
   * Source of the times, in words. Nobody has timed a card; a CPU is timed only if a plan for it was asked
   * for.
   */
  get timesBy(): string {
    if (this.#model.target !== "cpu") return "the card's data sheet";
    return isCpuSpeed(this.speed) ? "this CPU's measured speed" : "round figures for any CPU";
  }

  /** Returns the milliseconds of a run's micro-batch at this device's speed. */
  time(run: DryRun): number {
    return stepMs(run, this.speed);
  }

  /** Plans a workload under a policy. */
  plan<Asked extends Workload>(workload: Asked, policy: Policy, limits: Limits): Plan<Asked> {
    const run = this.#run(workload, policy, this.gradientCopy(workload, policy, limits));
    const fits = shortage(run, limits) <= 0;
    const { speed } = this;
    return {
      ...{ workload, policy, run, fits },
      get stepMs(): number {
        return stepMs(run, speed); // computed when read: it takes time, and many plans are only asked for bytes
      },
    };
  }

  /**
   * Returns where a run keeps the copy of its gradients: on the host if there is room. Undefined if the run
   * needs no copy.
   */
  gradientCopy(
    workload: RunWorkload,
    policy: Policy,
    { hostBytes }: Pick<Limits, "hostBytes">,
  ): Place | undefined {
    if ((workload.accumulation ?? 1) === 1 || workload.exactSum) return undefined;
    if (hostBytes === Number.POSITIVE_INFINITY) return "host";
    const { perMachine = 1 } = this.#model.ranks ?? {};
    return this.gradientBytes(workload, policy) * perMachine <= hostBytes ? "host" : "device";
  }

  /** Returns the bytes of a run's LoRA gradients. Their copy has as many. */
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
   * Traces every allocation of a workload's micro-batch under a policy.
   */
  trace(workload: Workload, policy: Policy, limits: Limits, options: TraceOptions): StepTrace<StepEvent> {
    const gradientCopy = this.gradientCopy(workload, policy, limits);
    const batch = shapeOf(workload, this.config);
    const { exactSum } = workload;
    const sharers = this.#sharers(this.#model.sharer ?? 0);
    const asked = { lora: loraOf(workload), batch, policy, gradientCopy, exactSum, sharers };
    return plannedTrace({ ...this.#model, ...asked }, options);
  }

  /** Plans an answer in a run under a policy. Returns the run's memory, and whether it fits. */
  answer(workload: RunWorkload, policy: Policy, limits: Limits, shape: AnswerShape): RoomFor {
    return this.#evaluated(workload, policy, limits, (held, parts) => dryAnswer(held, shape, parts));
  }

  /**
   * Plans the loss of a workload's micro-batch, forward only. Returns the run's memory, and whether it fits.
   */
  loss(workload: Workload, policy: Policy, limits: Limits): RoomFor {
    const batch = shapeOf(workload, this.config);
    return this.#evaluated(workload, policy, limits, (held, parts) =>
      this.#worstRank(batch, (sharers) => dryLoss({ ...held, sharers, batch }, parts)),
    );
  }

  #evaluated(
    workload: RunWorkload,
    policy: Policy,
    limits: Limits,
    body: (held: Omit<Configuration, "batch">, parts: CommonParts) => DryRun,
  ): RoomFor {
    const gradientCopy = this.gradientCopy(workload, policy, limits);
    const { exactSum } = workload;
    const held = { ...this.#model, lora: loraOf(workload), policy, gradientCopy, exactSum };
    const run = body(held, this.#parts.get());
    return { run, fits: shortage(run, limits) <= 0 };
  }

  /** Returns one of the ranks that share rows, and their number; undefined if nobody shares them. */
  #sharers(rank: number): Configuration["sharers"] {
    return this.rowSharers > 1 ? { rank, count: this.rowSharers } : undefined;
  }

  /**
   * Returns the run of the planned rank; if none is named, of the rank that needs the most device memory
   * among those that share the rows, with the most host memory of any. In a shape that stands for many
   * micro-batches the first rank has the most of everything.
   */
  #worstRank(batch: BatchShape | ExactShape, body: (sharers: Configuration["sharers"]) => DryRun): DryRun {
    const { sharer } = this.#model;
    if (sharer !== undefined || this.rowSharers === 1) return body(this.#sharers(sharer ?? 0));
    const ranks = "most" in batch && batch.most ? 1 : this.rowSharers;
    const runs = Array.from({ length: ranks }, (_, rank) => body(this.#sharers(rank)));
    const worst = runs.reduce((most, run) => (run.budgetedBytes > most.budgetedBytes ? run : most));
    const hostBytes = Math.max(...runs.map((run) => run.hostBytes));
    return { ...worst, hostBytes, machineBytes: worst.machineBytes + hostBytes - worst.hostBytes };
  }

  #run(workload: Workload, policy: Policy, gradientCopy: Place | undefined): DryRun {
    const batch = shapeOf(workload, this.config);
    const lora = loraOf(workload);
    const { exactSum } = workload;
    const key = JSON.stringify([lora, batch, policy, gradientCopy, exactSum]);
    const { runs, contextBytes } = this.#known;
    const moreBytes = contextOf(this.#model) - contextBytes;
    const known = runs.get(key);
    if (known) return inContext(known, moreBytes);
    const asked = { lora, batch, policy, gradientCopy, exactSum };
    const run = this.#worstRank(batch, (sharers) =>
      dryRun({ ...this.#model, sharers, ...asked }, { parts: this.#parts.get() }),
    );
    runs.set(key, inContext(run, -moreBytes));
    this.#parts.onDryRun?.();
    return run;
  }
}

/**
 * Returns everything of a device that its allocations depend on. Whether it multiplies fp8 matters only if
 * something is held in fp8.
 */
function allocationKey({ target, base, visionBase, ranks, rowSharers, sharer }: PlannedModel): string {
  const place = ranks || rowSharers ? JSON.stringify([ranks, rowSharers, rowSharers && sharer]) : "";
  if (target === "cpu") return `${target}${place}`;
  const isHeldInFp8 = [base, visionBase].includes("fp8");
  const abilities = abilitiesOf(capabilityOf(target)).filter((ability) => ability !== "fp8" || isHeldInFp8);
  return `${abilities} ${target.workspaceBytes} ${place}`.trim();
}

function contextOf({ target }: PlannedModel): number {
  return target === "cpu" ? 0 : target.contextBytes;
}

/** Returns a run as on a card whose context needs `moreBytes` more. */
function inContext(run: DryRun, moreBytes: number): DryRun {
  const { budgetedBytes, machineBytes, perMachine } = run;
  if (moreBytes === 0) return run;
  return {
    ...run,
    budgetedBytes: budgetedBytes + moreBytes,
    machineBytes: machineBytes + moreBytes * perMachine,
  };
}
