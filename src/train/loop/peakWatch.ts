/** Compares measured memory peaks with planned ones, step by step, and reports what was above its plan. */
import type { MicroBatch } from "../../data/stream/batches.ts";
import type { DryRun, PoolPlan } from "../../plan/dryRun/dryRun.ts";
import { CATEGORIES, memoryStats, POOLS, type Pool } from "../../torch/device.ts";
import type { Defect, DefectTrace, PlannedPeaks, StepPeaks } from "../facts/peaks.ts";
import type { StepRecord } from "../folder/runLog.ts";
import { type Peaks, peaksOf, resetPeaks } from "../machine/compute.ts";
import { held } from "../planning/planFact.ts";
import { DefectTracer } from "./defectTrace.ts";
import { isLastOfStep } from "./retry.ts";
import type { Run } from "./run.ts";

/** Peaks above this share of the plan are a defect of the plan. */
const TOLERATED_RATIO = 1.01;

/** The most bytes that each pool has held, and the phase in which it did. */
type Highest = Record<Pool, { bytes: number; phase: string }>;
const lowest = (): Highest => ({ device: { bytes: 0, phase: "" }, host: { bytes: 0, phase: "" } });

export class PeakWatch {
  readonly #run: Run;
  #planned: PlannedPeaks | undefined;
  #isFirst = true;
  #stepsDown = 0;
  /** Bytes by the plans of all steps so far: the allocator keeps for the next step what a step needed. */
  #plannedReservedBytes = 0;
  /** Highest so far in the step. */
  #highest: Highest = lowest();
  /** Tokens of the step's largest micro-batch. */
  #mostTokens = 0;
  readonly #tracer: DefectTracer;

  constructor(run: Run) {
    this.#run = run;
    this.#tracer = new DefectTracer(run);
  }

  /** Begins a step. What was before, such as loading or an evaluation, no longer counts. */
  startStep(): void {
    resetPeaks(this.#run.loaded.model.device);
    this.#highest = lowest();
    this.#planned = undefined;
    this.#mostTokens = 0;
    this.#stepsDown = this.#run.planned.plan.stepsDown.length;
  }

  /** Begins a micro-batch of the step. */
  begin(batch: MicroBatch): void {
    this.#mostTokens = Math.max(this.#mostTokens, batch.inputIds.length);
    this.#tracer.begin(batch, isLastOfStep(this.#run));
  }

  /** Notes the peaks after a part of a phase. */
  passed(phase: string): void {
    this.#tracer.passed(phase);
    for (const pool of POOLS) {
      const { peakBytes } = memoryStats(this.#run.loaded.model.device, pool);
      if (peakBytes > this.#highest[pool].bytes) this.#highest[pool] = { bytes: peakBytes, phase };
    }
  }

  /**
   * Ends a micro-batch. Returns whether to do it again, to record its allocations, because it needed more
   * than its plan.
   */
  add(batch: MicroBatch): boolean {
    this.passed("backward"); // the rest of it
    const { step } = this.#run.progress.state;
    if (!this.#tracer.awaitsUpdate) this.#tracer.end(step + 1);
    const { plan } = this.#run.planned;
    if (!this.#isExact && !plan.longest) return false;
    const { device, host, reservedBytes } = ofStep(
      this.#isExact ? plan.planned(batch) : plan.plannedAtMost(batch.inputIds.length),
    );
    this.#plannedReservedBytes = Math.max(this.#plannedReservedBytes, reservedBytes ?? 0);
    this.#planned = {
      device: this.#planned ? larger(this.#planned.device, device) : device,
      host: this.#planned ? larger(this.#planned.host, host) : host,
      ...(reservedBytes !== undefined && { reservedBytes: this.#plannedReservedBytes }),
    };
    const tokens = batch.inputIds.length;
    return this.#defects(peaksOf(this.#run.loaded.model.device)).some((defect) =>
      this.#tracer.want(step + 1, tokens, defect),
    );
  }

  endStep(): StepPeaks & { defects: (Defect & { trace: DefectTrace | undefined })[] } {
    const { step } = this.#run.progress.state;
    this.passed("update");
    this.#tracer.end(step);
    const isExact = this.#isExact;
    const measured = peaksOf(this.#run.loaded.model.device);
    const defects = this.#defects(measured).map((defect) => {
      this.#tracer.want(step, this.#mostTokens, defect); // what only the update came to
      return { ...defect, trace: this.#tracer.traceOf(defect) };
    });
    this.#isFirst = false;
    return { measured, ...(this.#planned && { planned: this.#planned }), isExact, defects };
  }

  /** Finds the pools that are above the plan so far. */
  #defects(measured: Peaks): Defect[] {
    const { stepsDown } = this.#run.planned.plan;
    const wasDisturbed = stepsDown.length > this.#stepsDown; // the attempt that ran out is in the peak too
    return this.#planned && !wasDisturbed ? defectsOf(this.#planned, measured, this.#highest) : [];
  }

  /** Stops recording, after an error. */
  stop(): void {
    this.#tracer.stop();
  }

  /**
   * Whether this step is planned to the byte: the first step of a planned run, and all steps with
   * planned_step.
   */
  get #isExact(): boolean {
    const { inputs, planned } = this.#run;
    return inputs.options.planned_step || (this.#isFirst && planned.plan.longest !== undefined);
  }
}

/** Returns the fields of a step's record about memory. isPlanned: with those of its plan. */
export function recordOf(
  { measured, planned }: StepPeaks,
  isPlanned: boolean,
): Pick<StepRecord, "peakBytes" | "hostPeakBytes"> & Partial<StepRecord> {
  return {
    peakBytes: measured.device.bytes,
    hostPeakBytes: measured.host.bytes,
    peakByCategory: held(measured.device.categories),
    ...(isPlanned && planned && { plannedPeakBytes: planned.device.peakBytes }),
    ...(measured.reservedBytes !== undefined && { reservedPeakBytes: measured.reservedBytes }),
    ...(isPlanned && planned?.reservedBytes && { plannedReservedPeakBytes: planned.reservedBytes }),
  };
}

/**
 * Returns the peaks of a plan without resuming and saving, which are not part of a step; reserved bytes are
 * those of the whole run.
 */
export function ofStep({ device, host, replay, phases }: DryRun): PlannedPeaks {
  const step = phases.filter(({ name }) => !["resume", "save"].includes(name));
  const most = (of: "devicePeakBytes" | "hostPeakBytes"): number =>
    step.reduce((bytes, phase) => Math.max(bytes, phase[of]), 0);
  return {
    device: { ...device, peakBytes: most("devicePeakBytes") },
    host: { ...host, peakBytes: most("hostPeakBytes") },
    ...(replay && { reservedBytes: replay.reservedPeakBytes }),
  };
}

function larger(one: PoolPlan, other: PoolPlan): PoolPlan {
  return other.peakBytes > one.peakBytes ? other : one;
}

function defectsOf(planned: PlannedPeaks, measured: Peaks, highest: Highest): Defect[] {
  return POOLS.filter((pool) => measured[pool].bytes > planned[pool].peakBytes * TOLERATED_RATIO).map(
    (pool) => ({
      pool,
      plannedBytes: planned[pool].peakBytes,
      measuredBytes: measured[pool].bytes,
      phase: highest[pool].phase,
      categories: CATEGORIES.map((category) => ({
        category,
        plannedBytes: planned[pool].categories[category],
        measuredBytes: measured[pool].categories[category],
      }))
        .filter(({ plannedBytes, measuredBytes }) => plannedBytes !== measuredBytes)
        .sort((one, other) => excessOf(other) - excessOf(one)),
    }),
  );
}

function excessOf({ plannedBytes, measuredBytes }: { plannedBytes: number; measuredBytes: number }): number {
  return measuredBytes - plannedBytes;
}
