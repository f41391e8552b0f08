/**
 * Where a plan was wrong: a micro-batch that took more than planned is done once more and recorded, allocation by allocation; after an update
 * that did, which can't be done again, the next step like it is. The record lies beside the same one on meta in defect-STEP.json, with the
 * first place where they part.
 */
import { join } from "node:path";
import { writeFileWhole } from "../../checkpoint/disk.ts";
import type { MicroBatch } from "../../data/stream/batches.ts";
import { formatBytes } from "../../errors.ts";
import { eventsOf, type StepTrace, type TraceEvent } from "../../plan/dryRun/allocations.ts";
import { firstParting, type Parting } from "../../plan/dryRun/firstDifference.ts";
import {
  type Category,
  logAllocations,
  memoryStats,
  type Pool,
  readAllocations,
} from "../../torch/device.ts";
import type { Device } from "../../torch/tensor.ts";
import { defectTraceFile } from "../folder/runLog.ts";
import type { Run } from "./openRun.ts";

/** Of a run: they take time, and the first ones tell. */
const MOST_TRACES = 3;
/** What a card's caching allocator rounds blocks to. */
const CARD_ROUND_BYTES = 512;

/** A pool that held more than planned, and the categories that say where, the largest difference first. */
export interface Defect {
  pool: Pool;
  plannedBytes: number;
  measuredBytes: number;
  /** Of the step, in which the pool came to its peak: vision, forward, loss, backward or update. */
  phase: string;
  categories: { category: Category; plannedBytes: number; measuredBytes: number }[];
}

/** Where the allocations of a defect are, or will be; undefined where those of others of its kind tell as much. */
export type DefectTrace =
  | { file: string; of: "the same step" | "the next one like it" | "one like it" }
  | undefined;

/** A defect that is to be traced. */
interface Wanted {
  step: number;
  /** Most tokens of the micro-batches like the one it was found in. */
  classTokens: number;
  defect: Defect;
}

interface Recording extends Wanted {
  batch: MicroBatch;
  isLast: boolean;
  before: StepTrace["before"];
  events: TraceEvent[];
  stepsDown: number;
}

export class DefectTracer {
  readonly #run: Run;
  #wanted: Wanted | undefined;
  #recording: Recording | undefined;
  /** The step of the first defect of each kind. */
  readonly #traced = new Map<string, number>();

  constructor(run: Run) {
    this.#run = run;
  }

  /** Has the next micro-batch of a length like this one's recorded, unless one was for such a defect; returns whether it will be. */
  want(step: number, tokens: number, defect: Defect): boolean {
    const kind = kindOf(defect);
    if (this.#wanted || this.#traced.has(kind) || this.#traced.size >= MOST_TRACES) return false;
    this.#traced.set(kind, step);
    this.#wanted = { step, defect, classTokens: this.#run.plan.classOf(tokens) };
    return true;
  }

  /** Where a defect of the step that ends has its trace. */
  traceOf(defect: Defect): DefectTrace {
    const step = this.#traced.get(kindOf(defect));
    if (step === undefined) return undefined;
    const file = defectTraceFile(step);
    if (this.#wanted?.step === step) return { file, of: "the next one like it" };
    return { file, of: step === this.#run.state.step ? "the same step" : "one like it" };
  }

  /** A micro-batch begins. */
  begin(batch: MicroBatch, isLast: boolean): void {
    const wanted = this.#wanted;
    const { plan, model } = this.#run;
    if (!wanted || plan.classOf(batch.inputIds.length) !== wanted.classTokens) return;
    if (wanted.defect.phase === "update" && !isLast) return;
    const live = (pool: Pool) => memoryStats(model.device, pool).liveByCategory;
    const before = { device: live("device"), host: live("host") };
    logAllocations(this.#logged(wanted.defect), true);
    this.#recording = { ...wanted, batch, isLast, before, events: [], stepsDown: plan.stepsDown.length };
  }

  /** A part of a phase is done. */
  passed(phase: string): void {
    const recording = this.#recording;
    if (!recording) return;
    for (const event of eventsOf(readAllocations(this.#logged(recording.defect)), phase))
      recording.events.push(event);
  }

  /** The micro-batch is done, with the last one of the step the update too; what was found is written and told. */
  end(step: number): void {
    const recording = this.#recording;
    this.stop();
    if (!recording || recording.stepsDown !== this.#run.plan.stepsDown.length) return; // what ran out is in it, so the next one has to tell
    this.#wanted = undefined;
    this.#tell(recording, step);
  }

  /** Whether the micro-batch that is recorded waits for its update. */
  get awaitsUpdate(): boolean {
    return this.#recording?.isLast ?? false;
  }

  /** Ends a recording without a word. */
  stop(): void {
    if (this.#recording) logAllocations(this.#logged(this.#recording.defect), false);
    this.#recording = undefined;
  }

  /** A card's pinned memory is in the CPU's log. */
  #logged({ pool }: Defect): Device {
    return pool === "host" ? "cpu" : this.#run.model.device;
  }

  #tell({ step, batch, isLast, before, events, defect }: Recording, recordedStep: number): void {
    const { plan, model, options, notice } = this.#run;
    const measured = { before, events };
    const planned = plan.trace(batch, { isLast });
    const parting = firstParting(planned, measured, {
      pool: defect.pool,
      excessBytes: defect.measuredBytes - defect.plannedBytes,
      roundBytes: model.device !== "cpu" && defect.pool === "device" ? CARD_ROUND_BYTES : 1,
    });
    const file = join(options.output, defectTraceFile(step));
    writeFileWhole(file, traceJson({ step, recordedStep, parting, planned, measured }));
    const when = recordedStep === step ? "done once more" : `recorded again in step ${recordedStep}`;
    notice(`the defect of step ${step}, ${when}: ${partingWords(parting)} (${file})`);
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

/** An event a line. */
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
