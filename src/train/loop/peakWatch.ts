/** Holds a run to its plan: measured peaks beside planned ones, step by step, and what took more than it should have. */
import type { MicroBatch } from "../../data/stream/batches.ts";
import type { DryRun, PoolPlan } from "../../plan/dryRun/dryRun.ts";
import { CATEGORIES, memoryStats, POOLS, type Pool } from "../../torch/device.ts";
import type { StepRecord } from "../folder/runLog.ts";
import { type Peaks, peaksOf, type Reserved, resetPeaks } from "../machine/compute.ts";
import { type Defect, type DefectTrace, DefectTracer } from "./defectTrace.ts";
import type { Run } from "./openRun.ts";
import { isLastOfStep } from "./retry.ts";

/** More than this of the plan is a defect of the plan. */
const TOLERATED_RATIO = 1.01;

export type PlannedPeaks = Record<Pool, PoolPlan> & Reserved;

export interface StepPeaks {
  measured: Peaks;
  /** Undefined where nothing was planned. */
  planned: PlannedPeaks | undefined;
  /** Whether it is of the very micro-batches, and not of the longest of their classes. */
  isExact: boolean;
}

/** What each pool has held at most, and the phase that it came to it in. */
type Highest = Record<Pool, { bytes: number; phase: string }>;
const lowest = (): Highest => ({ device: { bytes: 0, phase: "" }, host: { bytes: 0, phase: "" } });

export class PeakWatch {
  readonly #run: Run;
  #planned: PlannedPeaks | undefined;
  #isFirst = true;
  #stepsDown = 0;
  /** By the plans of all steps: the allocator keeps for the next step what one took. */
  #plannedReservedBytes = 0;
  /** As far as the step has come. */
  #highest: Highest = lowest();
  /** Of the step's largest micro-batch. */
  #mostTokens = 0;
  readonly #tracer: DefectTracer;

  constructor(run: Run) {
    this.#run = run;
    this.#tracer = new DefectTracer(run);
  }

  /** What was before, loading or an evaluation, counts no longer. */
  startStep(): void {
    resetPeaks(this.#run.model.device);
    this.#highest = lowest();
    this.#planned = undefined;
    this.#mostTokens = 0;
    this.#stepsDown = this.#run.plan.stepsDown.length;
  }

  /** Another micro-batch of the step begins. */
  begin(batch: MicroBatch): void {
    this.#mostTokens = Math.max(this.#mostTokens, batch.inputIds.length);
    this.#tracer.begin(batch, isLastOfStep(this.#run));
  }

  /** A part of a phase is done. */
  passed(phase: string): void {
    this.#tracer.passed(phase);
    for (const pool of POOLS) {
      const { peakBytes } = memoryStats(this.#run.model.device, pool);
      if (peakBytes > this.#highest[pool].bytes) this.#highest[pool] = { bytes: peakBytes, phase };
    }
  }

  /** The micro-batch that began is done; whether it is to be done again, as it took more than its plan and each allocation of it is wanted. */
  add(batch: MicroBatch): boolean {
    this.passed("backward"); // the rest of it
    if (!this.#tracer.awaitsUpdate) this.#tracer.end(this.#run.state.step + 1);
    const { plan, state } = this.#run;
    if (!this.#isExact && !plan.longest) return false;
    const { device, host, reservedBytes } = ofStep(
      this.#isExact ? plan.planned(batch) : plan.plannedAtMost(batch.inputIds.length),
    );
    this.#plannedReservedBytes = Math.max(this.#plannedReservedBytes, reservedBytes ?? 0);
    this.#planned = {
      device: this.#planned ? larger(this.#planned.device, device) : device,
      host: this.#planned ? larger(this.#planned.host, host) : host,
      reservedBytes: reservedBytes && this.#plannedReservedBytes,
    };
    const tokens = batch.inputIds.length;
    return this.#defects(peaksOf(this.#run.model.device)).some((defect) =>
      this.#tracer.want(state.step + 1, tokens, defect),
    );
  }

  endStep(): StepPeaks & { defects: (Defect & { trace: DefectTrace })[] } {
    const { step } = this.#run.state;
    this.passed("update");
    this.#tracer.end(step);
    const isExact = this.#isExact;
    const measured = peaksOf(this.#run.model.device);
    const defects = this.#defects(measured).map((defect) => {
      this.#tracer.want(step, this.#mostTokens, defect); // what only the update came to
      return { ...defect, trace: this.#tracer.traceOf(defect) };
    });
    this.#isFirst = false;
    return { measured, planned: this.#planned, isExact, defects };
  }

  /** Of the step as far as it has come. */
  #defects(measured: Peaks): Defect[] {
    const wasDisturbed = this.#run.plan.stepsDown.length > this.#stepsDown; // what ran out is in the peak too
    return this.#planned && !wasDisturbed ? defectsOf(this.#planned, measured, this.#highest) : [];
  }

  /** For the way out of an error. */
  stop(): void {
    this.#tracer.stop();
  }

  /** The first step of a planned run is planned anew, to the byte, and all are where that is asked for. */
  get #isExact(): boolean {
    const { options, plan } = this.#run;
    return options.planned_step || (this.#isFirst && plan.longest !== undefined);
  }
}

/** A step's peaks in its record. isPlanned: with those of its plan. */
export function recordOf(
  { measured, planned }: StepPeaks,
  isPlanned: boolean,
): Pick<StepRecord, "peakBytes" | "hostPeakBytes"> & Partial<StepRecord> {
  return {
    peakBytes: measured.device.bytes,
    hostPeakBytes: measured.host.bytes,
    ...(isPlanned && planned && { plannedPeakBytes: planned.device.peakBytes }),
    ...(measured.reservedBytes !== undefined && { reservedPeakBytes: measured.reservedBytes }),
    ...(isPlanned && planned?.reservedBytes && { plannedReservedPeakBytes: planned.reservedBytes }),
  };
}

/** The peaks of a plan without those of resuming and saving, which are not part of a step; what is reserved is the run's, as held. */
export function ofStep({ device, host, replay, phases }: DryRun): PlannedPeaks {
  const step = phases.filter(({ name }) => !["resume", "save"].includes(name));
  const most = (of: "devicePeakBytes" | "hostPeakBytes"): number =>
    step.reduce((bytes, phase) => Math.max(bytes, phase[of]), 0);
  return {
    device: { ...device, peakBytes: most("devicePeakBytes") },
    host: { ...host, peakBytes: most("hostPeakBytes") },
    reservedBytes: replay?.reservedPeakBytes,
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
