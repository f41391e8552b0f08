/**
 * Finds the longest micro-batch that fits a device by real steps: lengths double, then halve the gap. Each
 * step is compared with its plan.
 */

import type { PictureForm } from "../data/pictures/form.ts";
import type { MicroBatch } from "../data/stream/batches.ts";
import { UsageError } from "../errors.ts";
import { officialTargets, pictureFormOf } from "../models/families.ts";
import { createLora, disposeLora } from "../models/lora.ts";
import { disposeModel, loadOpened, type Model } from "../models/weights.ts";
import { batchOf, plannedBatch } from "../plan/dryRun/batchShapes.ts";
import type { Limits, Planner, SizedPlan, SizedWorkload } from "../plan/planner.ts";
import { fastestPlan } from "../plan/search.ts";
import { drive } from "../step/driveSteps.ts";
import { OFFICIAL_ADAMW } from "../step/optimizer/adamW.ts";
import { type GradientBackup, gradientCopies, zeroBackup } from "../step/optimizer/gradientBackup.ts";
import {
  type AdamW,
  createAdamW,
  disposeAdamW,
  gradientNorm,
  gradientsOf,
  loraParameters,
  stepAdamW,
} from "../step/optimizer/optimizer.ts";
import { factorCopies, loadingOf, type Policy } from "../step/policy.ts";
import { trainStep } from "../step/step.ts";
import { OutOfMemoryError } from "../torch/device.ts";
import type { PlannedPeaks } from "./facts/peaks.ts";
import { ofStep } from "./loop/peakWatch.ts";
import {
  type Compute,
  type ComputeOptions,
  freeCache,
  liftCaps,
  type Peaks,
  peaksOf,
  resetPeaks,
  startCompute,
} from "./machine/compute.ts";
import { limitsOf, plannerOf } from "./machine/modelPlanner.ts";
import { closeModel, type OpenedModel, openModel } from "./machine/openedModel.ts";

export interface FitOptions extends ComputeOptions {
  model: string;
  lora_r: number;
  lora_dropout: number;
  /** The part of each length that is picture. */
  image_share: number;
  /** Micro-batches of a run's step: with several it keeps a copy of its gradients. */
  gradient_accumulation: number;
  /** The first length, and where the search ends in any case. */
  from: number;
  to: number;
}

/** One length: what was planned for it, and what the real step took; undefined where memory ran out. */
export interface FitTrial {
  tokens: number;
  plan: SizedPlan;
  planned: PlannedPeaks;
  measured: (Peaks & { stepMs: number }) | undefined;
}

/** A length that is about to be tried. */
export interface FitAttempt {
  plan: SizedPlan;
  /** Source of the plan's time. */
  timesBy: string;
  /** How many lengths are to be tried, this one included; undefined as long as none has failed. */
  triesLeft: number | undefined;
}

/** The gap that is left between what fits and what does not, as a part of the former. */
const GAP_RATIO = 0.02;

/** Tries lengths until the limit is known. Throws UserError where nothing says how much memory there is. */
export async function* fitTrials(
  options: FitOptions,
  onAttempt: (attempt: FitAttempt) => void = () => {},
): AsyncGenerator<FitTrial> {
  const opened = openModel(options.model);
  const closers = [() => closeModel(opened)];
  try {
    const compute = startCompute(opened, options);
    closers.push(() => liftCaps(compute.device));
    const limits = limitsOf(options, compute.device);
    if (!limits) {
      throw new UsageError("On a CPU there is no card whose memory is the limit.", {
        fix: "Pass --memory, which then is a hard cap.",
      });
    }
    yield* trials(new Trials(options, { opened, compute, limits }), onAttempt);
  } finally {
    for (const close of closers.reverse()) close();
  }
}

async function* trials(bench: Trials, onAttempt: (attempt: FitAttempt) => void): AsyncGenerator<FitTrial> {
  const { from, to } = bench.options;
  let [fits, fails] = [0, to + 1];
  try {
    for (let tokens = Math.min(from, to); fails - fits > Math.max(1, fits * GAP_RATIO); ) {
      const plan = bench.plan(tokens);
      onAttempt({ plan, timesBy: bench.timesBy, triesLeft: triesLeft(fits, fails, to) });
      const trial = await bench.run(plan);
      yield trial;
      if (trial.measured) fits = tokens;
      else fails = tokens;
      if (fits === 0 && fails <= 64) return; // not even a line of text
      tokens = fails > to ? Math.min(2 * tokens, to) : Math.floor((fits + fails) / 2);
    }
  } finally {
    bench[Symbol.dispose]();
  }
}

/** At most so many more lengths to halve the gap to what is left; undefined as long as lengths double. */
function triesLeft(fits: number, fails: number, to: number): number | undefined {
  if (fails > to) return undefined;
  return Math.max(1, Math.ceil(Math.log2((fails - fits) / Math.max(1, fits * GAP_RATIO))));
}

/** Runs steps; the model stays loaded as long as plans want it loaded in the same way. */
class Trials implements Disposable {
  readonly options: FitOptions;
  readonly #opened: OpenedModel;
  readonly #compute: Compute;
  readonly #limits: Limits;
  readonly #planner: Planner;
  #loaded: { model: Model; key: string } | undefined;

  constructor(
    options: FitOptions,
    { opened, compute, limits }: { opened: OpenedModel; compute: Compute; limits: Limits },
  ) {
    this.options = options;
    this.#opened = opened;
    this.#compute = compute;
    this.#limits = limits;
    this.#planner = plannerOf(opened, compute);
  }

  get timesBy(): string {
    return this.#planner.timesBy;
  }

  /** The fastest policy that should fit so many tokens, else the leanest. */
  plan(tokens: number): SizedPlan {
    return fastestPlan(this.#planner, this.#workload(tokens), this.#limits);
  }

  /** One micro-batch and one update as planned. */
  async run(plan: SizedPlan): Promise<FitTrial> {
    const tokens = plan.workload.maxLength;
    const planned = ofStep(plan.run);
    try {
      return { tokens, plan, planned, measured: await this.#step(plan) };
    } catch (thrown) {
      if (!(thrown instanceof OutOfMemoryError)) throw thrown;
      return { tokens, plan, planned, measured: undefined };
    }
  }

  #workload(maxLength: number): SizedWorkload {
    const {
      lora_r: rank,
      lora_dropout: dropout,
      image_share: imageShare,
      gradient_accumulation: accumulation,
    } = this.options;
    const run = { rank, dropout, targets: officialTargets(this.#planner.config), accumulation };
    return { ...run, maxLength, pictureLimit: 1, imageShare, batchSize: 1 };
  }

  async #step(plan: SizedPlan): Promise<Peaks & { stepMs: number }> {
    const { policy, workload } = plan;
    const { device, dtype } = this.#compute;
    const model = this.#modelFor(policy);
    const { gradients } = policy;
    const { rank, dropout, targets } = workload;
    const lora = createLora(model.config, {
      ...{ rank, alpha: rank, dropout, targets, rslora: false, seed: 0 },
      ...{ device, gradients, copies: factorCopies(policy, dtype) },
    });
    try {
      const optimizer = createAdamW(loraParameters(lora), OFFICIAL_ADAMW, policy.optimizer);
      try {
        using backup = this.#backupOf(optimizer, plan);
        const form = pictureFormOf(model.config);
        const batch = withPixels(plannedBatch(batchOf(workload, form)), form);
        freeCache(device); // of other lengths
        resetPeaks(device);
        const startMs = performance.now();
        backup.save();
        await drive(trainStep(model, lora, batch, policy, { lossScale: 1, dropoutSeed: 1n }));
        gradientNorm(optimizer.parameters);
        stepAdamW(optimizer, 1e-4, 0.5);
        return { ...peaksOf(device), stepMs: performance.now() - startMs };
      } finally {
        disposeAdamW(optimizer);
      }
    } finally {
      disposeLora(lora);
    }
  }

  /** The copy of the gradients as a run keeps it. */
  #backupOf({ parameters }: AdamW, { policy, workload }: SizedPlan): GradientBackup {
    const place = this.#planner.gradientCopy(workload, policy, this.#limits);
    const gradients = gradientsOf(parameters);
    return place ? gradientCopies(gradients, place) : zeroBackup(gradients);
  }

  #modelFor(policy: Policy): Model {
    const loading = loadingOf(policy);
    const key = JSON.stringify(loading);
    if (this.#loaded?.key === key) return this.#loaded.model;
    this[Symbol.dispose]();
    const model = loadOpened(this.#opened, { ...this.#compute, ...loading });
    this.#loaded = { model, key };
    return model;
  }

  [Symbol.dispose](): void {
    if (this.#loaded) disposeModel(this.#loaded.model);
    this.#loaded = undefined;
  }
}

/** Black pictures in the places of the planned ones. */
function withPixels(batch: MicroBatch, form: PictureForm): MicroBatch {
  return { ...batch, images: batch.images.map(form.black) };
}
