/**
 * Records the memory over a step: the last micro-batch of a step and the update, when that micro-batch is the
 * largest so far. memory.json shows it beside its plan; with memory_snapshot every allocation is kept too.
 */
import { writeFileWhole } from "../../checkpoint/files/disk.ts";
import type { MicroBatch } from "../../data/stream/batches.ts";
import type { StepTrace } from "../../plan/dryRun/allocations.ts";
import { type Part, type StepEvent, StepEvents, withStacks } from "../../plan/dryRun/stepEvents.ts";
import { leftOutWords, snapshotOf, VIEWER } from "../../plan/memory/snapshot.ts";
import { peakOf, profileOf } from "../../plan/memory/stepProfile.ts";
import {
  cardMemory,
  logAllocations,
  memoryStats,
  type OutOfMemoryError,
  type Pool,
  readAllocations,
} from "../../torch/device.ts";
import { type Device, isCard } from "../../torch/dtypes.ts";
import type { StepMemory } from "../folder/stepMemory.ts";
import { outsideBytes } from "../machine/compute.ts";
import type { Run } from "./run.ts";

/** A micro-batch needs so many times the tokens of the largest before, because recording takes time. */
const LARGER_RATIO = 1.05;

interface Recording {
  batch: MicroBatch;
  /** Whether the micro-batch ends its step, so that its update is recorded too. */
  isLast: boolean;
  before: StepTrace["before"];
  collected: StepEvents;
  stacks: Disposable | undefined;
}

export class MemoryRecorder {
  readonly #run: Run;
  /** File of the snapshot, if one is wanted. */
  readonly #snapshot: string | undefined;
  #recording: Recording | undefined;
  #mostTokens = 0;
  /** Whether the snapshot shows a micro-batch that ran out of memory. No other replaces it. */
  #ranOut = false;

  constructor(run: Run) {
    this.#run = run;
    this.#snapshot = run.inputs.options.memory_snapshot;
  }

  /** Begins a micro-batch, unless somebody else reads the log of allocations. */
  begin(batch: MicroBatch, { isLast, isBusy }: { isLast: boolean; isBusy: boolean }): void {
    this.stop();
    const isLarger = batch.inputIds.length > LARGER_RATIO * this.#mostTokens;
    if (isBusy || !((isLast && isLarger) || this.#snapshot !== undefined)) return;
    const { device } = this.#run.loaded.model;
    const live = (pool: Pool) => memoryStats(device, pool).liveByCategory;
    const before = { device: live("device"), host: live("host") };
    for (const { logged } of logsOf(device)) logAllocations(logged, true);
    const collected = new StepEvents();
    const stacks = this.#snapshot === undefined ? undefined : withStacks(device, collected);
    this.#recording = { batch, isLast, before, collected, stacks };
  }

  /** Notes the allocations of a part of a phase. */
  passed(phase: string, part?: Part): void {
    const recording = this.#recording;
    if (!recording) return;
    const { device } = this.#run.loaded.model;
    for (const { logged, only } of logsOf(device)) recording.collected.add(readAllocations(logged), { only });
    recording.collected.passed(phase, part);
  }

  /** Ends a micro-batch that no update follows. */
  endMicroBatch(): void {
    if (this.#recording && !this.#recording.isLast) this.stop();
  }

  /** Ends a step. Returns its memory if it was recorded. */
  endStep(step: number): StepMemory | undefined {
    const recording = this.#recording;
    this.stop();
    if (!recording || recording.batch.inputIds.length <= LARGER_RATIO * this.#mostTokens) return undefined;
    const { batch } = recording;
    this.#mostTokens = batch.inputIds.length;
    const measured = traceOf(recording);
    if (!this.#ranOut) this.#write(measured, { step });
    return this.#memoryOf(step, batch, measured);
  }

  /** Ends a micro-batch that ran out of memory. */
  failed(step: number, phase: string, cause: OutOfMemoryError): void {
    this.passed(phase);
    const recording = this.#recording;
    this.stop();
    if (!recording) return;
    this.#ranOut = true;
    this.#write(traceOf(recording), { step, ranOut: cause });
  }

  /** Ends a recording. */
  stop(): void {
    if (!this.#recording) return;
    this.#recording.stacks?.[Symbol.dispose]();
    for (const { logged } of logsOf(this.#run.loaded.model.device)) logAllocations(logged, false);
    this.#recording = undefined;
  }

  #write(trace: StepTrace<StepEvent>, { step, ranOut }: { step: number; ranOut?: OutOfMemoryError }): void {
    if (this.#snapshot === undefined) return;
    const { notice } = this.#run.facts;
    const { pickle, leftOut } = snapshotOf(trace, ranOut);
    writeFileWhole(this.#snapshot, pickle);
    const until = ranOut ? " until memory ran out" : "";
    notice(
      `wrote the allocations of step ${step}${until} to ${this.#snapshot}${leftOutWords(leftOut)}; open it at ${VIEWER}`,
    );
  }

  #memoryOf(step: number, batch: MicroBatch, trace: StepTrace<StepEvent>): StepMemory {
    const { inputs, planned, loaded } = this.#run;
    const { device } = loaded.model;
    const measured = profileOf(trace);
    const planTrace = planned.plan.trace(batch, { isLast: true });
    const { memory, host_memory } = inputs.options;
    const roundingBytes = isCard(device)
      ? Math.max(0, cardMemory(device).peakReservedBytes - peakOf(measured, "device"))
      : 0;
    return {
      ...{ version: 1, step, tokens: batch.inputIds.length, samples: batch.samples, device },
      limits: {
        ...(memory !== undefined && { deviceBytes: memory }),
        ...(host_memory !== undefined && { hostBytes: host_memory }),
      },
      besideBytes: outsideBytes(device) + roundingBytes,
      measured,
      planned: profileOf(planTrace),
    };
  }
}

/**
 * Returns the devices whose logs have the allocations of a run. A card's pinned memory is in the CPU's log,
 * beside tensors that are in no pool of the card.
 */
function logsOf(device: Device): { logged: Device; only?: Pool }[] {
  return isCard(device) ? [{ logged: device }, { logged: "cpu", only: "host" }] : [{ logged: device }];
}

function traceOf({ before, collected: { events } }: Recording): StepTrace<StepEvent> {
  return { before, events };
}
