/** Compares measured memory peaks with planned ones, step by step, and reports what was above its plan. */
import type { MicroBatch } from "../../data/stream/batches.ts";
import type { DryRun, PoolPlan } from "../../plan/dryRun/dryRun.ts";
import type { Part } from "../../plan/dryRun/stepEvents.ts";
import {
  CATEGORIES,
  type Category,
  memoryStats,
  type OutOfMemoryError,
  POOLS,
  type Pool,
} from "../../torch/device.ts";
import type { Defect, DefectTrace, PlannedPeaks, StepPeaks } from "../facts/peaks.ts";
import { defectTraceFile, type StepRecord } from "../folder/runLog.ts";
import type { StepMemory } from "../folder/stepMemory.ts";
import { type Peaks, peaksOf, resetPeaks } from "../machine/compute.ts";
import { held } from "../planning/planFact.ts";
import { DefectTracer } from "./defectTrace.ts";
import { MemoryRecorder } from "./memoryRecording.ts";
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
  /** The phase of the micro-batch that a part was last done of. */
  #phase = "";
  #stepsDown = 0;
  /** Bytes by the plans of all steps so far: the allocator keeps for the next step what a step needed. */
  #plannedReservedBytes = 0;
  /** Highest so far in the step. */
  #highest: Highest = lowest();
  /** Tokens of the step's largest micro-batch. */
  #mostTokens = 0;
  readonly #tracer: DefectTracer;
  readonly #memory: MemoryRecorder;

  constructor(run: Run) {
    this.#run = run;
    this.#tracer = new DefectTracer(run);
    this.#memory = new MemoryRecorder(run);
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
    this.#phase = batch.images.length > 0 ? "vision" : "forward";
    const isLast = isLastOfStep(this.#run);
    this.#memory.stop();
    this.#tracer.begin(batch, isLast);
    this.#memory.begin(batch, { isLast, isBusy: this.#tracer.isRecording });
  }

  /**
   * Notes that a micro-batch ran out of memory. If it needed more than the plan that said it fits, reports
   * that as a defect. Returns whether to do it again under the same policy, to record its allocations up to
   * there.
   */
  async ranOut(batch: MicroBatch, cause: OutOfMemoryError): Promise<boolean> {
    const { planned, progress, facts, loaded } = this.#run;
    const step = progress.state.step + 1;
    const phase = phaseOf(cause, this.#phase);
    this.#memory.failed(step, phase, cause);
    if (this.#tracer.failed(step, phase, cause) || !planned.plan.longest?.fits) return false;
    const { pool, liveBytes, requestedBytes } = cause;
    const tokens = batch.inputIds.length;
    const atMost = ofStep(planned.plan.plannedAtMost(tokens))[pool];
    const measuredBytes = liveBytes + requestedBytes;
    if (measuredBytes <= atMost.peakBytes) return false; // others use the memory
    const { categories } = peaksOf(loaded.model.device)[pool];
    const defect = {
      ...{ pool, plannedBytes: atMost.peakBytes, measuredBytes, phase },
      categories: differences(atMost.categories, categories),
    };
    const isTraced = this.#tracer.want(step, tokens, defect);
    const trace = { file: defectTraceFile(step), of: "the same step" } as const;
    await facts.send({ fact: "defect", step, defect, ...(isTraced && { trace }) });
    if (isTraced) this.begin(batch);
    return isTraced;
  }

  /** Notes the peaks after a part of a phase. */
  passed(phase: string, part?: Part): void {
    this.#phase = phase;
    this.#tracer.passed(phase);
    this.#memory.passed(phase, part);
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
    this.#memory.endMicroBatch();
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

  /** Ends the step. memory: of the step, if it was recorded. */
  endStep(): StepPeaks & {
    defects: (Defect & { trace: DefectTrace | undefined })[];
    memory: StepMemory | undefined;
  } {
    const { step } = this.#run.progress.state;
    this.passed("update");
    this.#tracer.end(step);
    const memory = this.#memory.endStep(step);
    const isExact = this.#isExact;
    const measured = peaksOf(this.#run.loaded.model.device);
    const defects = this.#defects(measured).map((defect) => {
      this.#tracer.want(step, this.#mostTokens, defect); // what only the update came to
      return { ...defect, trace: this.#tracer.traceOf(defect) };
    });
    this.#isFirst = false;
    return { measured, ...(this.#planned && { planned: this.#planned }), isExact, defects, memory };
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
    this.#memory.stop();
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
      categories: differences(planned[pool].categories, measured[pool].categories),
    }),
  );
}

/** Returns the categories that differ, the largest excess first. */
function differences(
  planned: Record<Category, number>,
  measured: Record<Category, number>,
): Defect["categories"] {
  return CATEGORIES.map((category) => ({
    category,
    plannedBytes: planned[category],
    measuredBytes: measured[category],
  }))
    .filter(({ plannedBytes, measuredBytes }) => plannedBytes !== measuredBytes)
    .sort((one, other) => excessOf(other) - excessOf(one));
}

/** Returns the phase in which an allocation failed, if parts of a phase were done before. */
function phaseOf({ category }: OutOfMemoryError, before: string): string {
  if (category === "visionFeatures") return "vision";
  if (category === "loss") return "loss";
  return before === "vision" ? "forward" : before;
}

function excessOf({ plannedBytes, measuredBytes }: { plannedBytes: number; measuredBytes: number }): number {
  return measuredBytes - plannedBytes;
}
