/**
 * Records where a plan was wrong. A micro-batch that needed more than planned is done once more and recorded,
 * allocation by allocation. An update can't be done again, so the next step like it is recorded.
 * defect-STEP.json holds the record, the same one of the plan, and the first place where they differ.
 */
import { join } from "node:path";
import { writeFileWhole } from "../../checkpoint/files/disk.ts";
import type { MicroBatch } from "../../data/stream/batches.ts";
import { formatBytes } from "../../errors.ts";
import type { StepTrace } from "../../plan/dryRun/allocations.ts";
import { firstParting, type Parting } from "../../plan/dryRun/firstDifference.ts";
import { StepEvents, type TraceEvent } from "../../plan/dryRun/stepEvents.ts";
import {
  logAllocations,
  memoryStats,
  type OutOfMemoryError,
  type Pool,
  readAllocations,
} from "../../torch/device.ts";
import type { Device } from "../../torch/tensor.ts";
import type { Defect, DefectTrace } from "../facts/peaks.ts";
import { defectTraceFile } from "../folder/runLog.ts";
import { isWriter } from "../ranks/together.ts";
import type { Run } from "./run.ts";

/** Traces of a run at most: a trace takes time, and the first ones show enough. */
const MOST_TRACES = 3;
/** A card's caching allocator rounds blocks to a multiple of so many bytes. */
const CARD_ROUND_BYTES = 512;

/** Id of the allocation that failed. */
const FAILED = -1;

/** A defect that is to be traced. */
interface Wanted {
  step: number;
  /** Maximum tokens of the length class in which it was found. */
  classTokens: number;
  defect: Defect;
}

interface Recording extends Wanted {
  batch: MicroBatch;
  isLast: boolean;
  before: StepTrace["before"];
  collected: StepEvents;
  stepsDown: number;
}

export class DefectTracer {
  readonly #run: Run;
  #wanted: Wanted | undefined;
  #recording: Recording | undefined;
  /** Step of the first defect of each kind. */
  readonly #traced = new Map<string, number>();

  constructor(run: Run) {
    this.#run = run;
  }

  /**
   * Asks to record the next micro-batch of this length class, unless one was recorded for such a defect.
   * Returns whether it will be.
   */
  want(step: number, tokens: number, defect: Defect): boolean {
    const kind = kindOf(defect);
    if (!isWriter(this.#run)) return false;
    if (this.#wanted || this.#traced.has(kind) || this.#traced.size >= MOST_TRACES) return false;
    this.#traced.set(kind, step);
    this.#wanted = { step, defect, classTokens: this.#run.planned.plan.classOf(tokens) };
    return true;
  }

  /** Returns where the trace of a defect in the step that ends is, or will be. */
  traceOf(defect: Defect): DefectTrace | undefined {
    const step = this.#traced.get(kindOf(defect));
    if (step === undefined) return undefined;
    const file = defectTraceFile(step);
    if (this.#wanted?.step === step) return { file, of: "the next one like it" };
    return { file, of: step === this.#run.progress.state.step ? "the same step" : "one like it" };
  }

  /** Begins a micro-batch. */
  begin(batch: MicroBatch, isLast: boolean): void {
    const wanted = this.#wanted;
    const { plan } = this.#run.planned;
    const { model } = this.#run.loaded;
    if (!wanted || plan.classOf(batch.inputIds.length) !== wanted.classTokens) return;
    if (wanted.defect.phase === "update" && !isLast) return;
    const live = (pool: Pool) => memoryStats(model.device, pool).liveByCategory;
    const before = { device: live("device"), host: live("host") };
    logAllocations(this.#logged(wanted.defect), true);
    this.#recording = {
      ...wanted,
      batch,
      isLast,
      before,
      collected: new StepEvents(),
      stepsDown: plan.stepsDown.length,
    };
  }

  /** Notes the allocations of a part of a phase. */
  passed(phase: string): void {
    const recording = this.#recording;
    if (!recording) return;
    recording.collected.add(readAllocations(this.#logged(recording.defect)));
    recording.collected.passed(phase);
  }

  /** Ends a micro-batch, with the last one of a step the update too. Writes and reports what was found. */
  end(step: number): void {
    const recording = this.#recording;
    this.stop();
    if (!recording) return;
    const { stepsDown } = this.#run.planned.plan;
    if (recording.stepsDown !== stepsDown.length) return; // it ran out of memory: the next one is recorded
    this.#wanted = undefined;
    this.#report(recording, step);
  }

  /**
   * Ends a micro-batch that ran out of memory, with the allocation that failed. Returns whether it was
   * recorded.
   */
  failed(
    step: number,
    phase: string,
    { pool, category = "workingSet", requestedBytes }: OutOfMemoryError,
  ): boolean {
    if (!this.#recording) return false;
    this.passed(phase);
    this.#recording.collected.events.push({ phase, pool, category, bytes: requestedBytes, id: FAILED });
    this.end(step);
    return true;
  }

  /** Whether a micro-batch is being recorded. */
  get isRecording(): boolean {
    return this.#recording !== undefined;
  }

  /** Whether the recorded micro-batch waits for its update. */
  get awaitsUpdate(): boolean {
    return this.#recording?.isLast ?? false;
  }

  /** Ends a recording without a report. */
  stop(): void {
    if (this.#recording) logAllocations(this.#logged(this.#recording.defect), false);
    this.#recording = undefined;
  }

  /** Returns the device whose log has a defect's allocations: a card's pinned memory is in the CPU's log. */
  #logged({ pool }: Defect): Device {
    return pool === "host" ? "cpu" : this.#run.loaded.model.device;
  }

  #report(
    { step, batch, isLast, before, collected: { events }, defect }: Recording,
    recordedStep: number,
  ): void {
    const { inputs, loaded, planned: runPlan, facts } = this.#run;
    const measured = { before, events };
    const planned = runPlan.plan.trace(batch, { isLast });
    const parting = firstParting(planned, measured, {
      pool: defect.pool,
      excessBytes: defect.measuredBytes - defect.plannedBytes,
      roundBytes: loaded.model.device !== "cpu" && defect.pool === "device" ? CARD_ROUND_BYTES : 1,
    });
    const file = join(inputs.options.output, defectTraceFile(step));
    writeFileWhole(file, traceJson({ step, recordedStep, parting, planned, measured }));
    const when = recordedStep === step ? "done once more" : `recorded again in step ${recordedStep}`;
    facts.notice(`the defect of step ${step}, ${when}: ${partingWords(parting)} (${file})`);
  }
}

function kindOf({ pool, phase }: Defect): string {
  return `${pool} ${phase}`;
}

function partingWords(parting: Parting | undefined): string {
  if (!parting) return "this time it allocated what was planned";
  if (parting.at === "start") {
    const { category, plannedBytes, measuredBytes } = parting;
    return `before it began, ${formatBytes(measuredBytes)} of ${category} were held instead of ${formatBytes(plannedBytes)}`;
  }
  const { index, planned, measured } = parting;
  return `it parts from its plan at event ${index}, ${wordsOf(measured)}, where the plan has ${planned ? wordsOf(planned) : "nothing more"}`;
}

function wordsOf({ bytes, category, phase }: TraceEvent): string {
  return `${bytes < 0 ? "a free" : "an allocation"} of ${formatBytes(Math.abs(bytes))} of ${category} in ${phase}`;
}

/** Writes an event a line. */
function traceJson({
  planned,
  measured,
  ...facts
}: {
  step: number;
  recordedStep: number;
  parting: Parting | undefined;
  planned: StepTrace;
  measured: StepTrace;
}): string {
  const rows = ({ events }: StepTrace): string =>
    events
      .map(({ phase, pool, category, bytes }) => JSON.stringify([phase, pool, category, bytes]))
      .join(",\n");
  const head = {
    ...{ ...facts, parting: facts.parting ?? null, columns: ["phase", "pool", "category", "bytes"] },
    before: { planned: planned.before, measured: measured.before },
  };
  const text = JSON.stringify(head, undefined, 2).replace(/\n\}$/, "");
  return `${text},\n  "planned": [\n${rows(planned)}\n],\n  "measured": [\n${rows(measured)}\n]\n}\n`;
}
