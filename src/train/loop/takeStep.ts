/**
 * One step of the optimizer: its micro-batches and its update are queued, and told of when a card has come to them, one micro-batch late.
 * Whether there is an update at all is the device's to decide then: where loss or norm are not finite, it changes nothing.
 */
import { join } from "node:path";
import type { SampleSource } from "../../data/samples/sample.ts";
import type { MicroBatch } from "../../data/stream/batches.ts";
import { zeroGradients } from "../../models/lora.ts";
import { afterGoodStep, afterOverflow, isOverflow, type LossScale } from "../../step/optimizer/lossScale.ts";
import { clippedScale } from "../../step/optimizer/updateGate.ts";
import type { QueuedStep } from "../../step/step.ts";
import { dispose, type Tensor } from "../../torch/tensor.ts";
import { type Accumulated, emptyStep } from "../folder/checkpoints.ts";
import { appendRecord, DEFECTS_FILE, STEPS_FILE, type StepRecord } from "../folder/runLog.ts";
import type { TrainOptions } from "../options/options.ts";
import { learningRate } from "../options/schedule.ts";
import type { Waited } from "./dataWait.ts";
import { type PeakWatch, recordOf } from "./peakWatch.ts";
import { runMicroBatch } from "./retry.ts";
import { namesOf, notFinite, withWayOn } from "./stopErrors.ts";
import type { Running } from "./trainer.ts";
import { normWithin, updateWithin } from "./update.ts";

/** A step as far as this process has seen it; what a checkpoint has of it is in the run's state. */
export interface StepUnderWay {
  samples: SampleSource[];
  /** Of all its gradients, () on the device, where its last micro-batch is queued. */
  norm: Tensor | undefined;
  /** The same number, where that micro-batch has been told of. */
  gradientNorm: number | undefined;
}

export const beginStep = (): StepUnderWay => ({ samples: [], norm: undefined, gradientNorm: undefined });

/** Where in the run something has happened. */
interface Moment {
  step: number;
  microBatch: number;
  /** Whether the factors are those of the last checkpoint, and these numbers the first that they gave. */
  isUntried: boolean;
}

/** A micro-batch that was queued. */
interface Taken {
  batch: MicroBatch;
  moment: Moment;
  sums: Accumulated;
  under: StepUnderWay;
}

/** One step, or as much of it as comes before an interruption. */
export async function takeStep(
  run: Running,
  nextBatch: () => Promise<Waited<IteratorResult<MicroBatch, unknown>> | undefined>,
): Promise<"done" | "interrupted" | "no data"> {
  const { state, options, signal } = run;
  run.watch.startStep();
  while (state.accumulated.microBatches < options.gradient_accumulation) {
    if (signal?.aborted) return "interrupted";
    const startMs = performance.now();
    const waited = await nextBatch();
    if (!waited) return "interrupted";
    const { value: batch, done } = waited.value;
    if (done) break;
    state.accumulated.dataWaitMs += waited.stalledMs;
    await accumulate(run, batch, startMs);
  }
  if (state.accumulated.microBatches === 0) return "no data";
  await updateFactors(run);
  return "done";
}

/** Adds a micro-batch's gradients to those of the step. */
async function accumulate(run: Running, batch: MicroBatch, startMs: number): Promise<void> {
  const { state, options, emit, under } = run;
  const sums = state.accumulated;
  const [step, microBatch] = [state.step + 1, sums.microBatches + 1];
  const moment = { step, microBatch, isUntried: run.saved && microBatch === 1 };
  const weight = weightOf(options, batch);
  const once = (): Promise<QueuedStep> => {
    run.watch.begin(batch);
    return runMicroBatch(run, batch, weight * (state.lossScale?.scale ?? 1), (phase) => {
      run.watch.passed(phase.phase);
      emit({ event: "phase", step, microBatch, phase });
    });
  };
  let queued = await once();
  if (run.watch.add(batch)) {
    queued[Symbol.dispose]();
    dispose(queued.norm);
    run.backup.restore();
    queued = await once();
    run.watch.add(batch);
  }
  under.norm = queued.norm;
  under.samples.push(...batch.samples);
  state.microBatches += 1;
  state.data = batch.position;
  sums.microBatches += 1;
  sums.weightSum += weight;
  sums.tokens += batch.inputIds.length;
  sums.epoch = batch.epoch;
  sums.elapsedMs += performance.now() - startMs;
  const taken = { batch, moment, sums, under };
  await run.late.add({
    isDone: queued.isDone,
    isBusy: queued.isBusy,
    tell: () => tellMicroBatch(run, taken, queued),
    [Symbol.dispose]: () => queued[Symbol.dispose](),
  });
}

/** The wait for a micro-batch is time of its own, not of the one that was queued before it. */
async function tellMicroBatch(run: Running, taken: Taken, queued: QueuedStep): Promise<void> {
  const { batch, moment, sums, under } = taken;
  const { step, microBatch } = moment;
  const startMs = performance.now();
  await queued.arrival();
  const { loss, gradientNorm } = queued.read();
  sums.elapsedMs += performance.now() - startMs;
  run.emit({ event: "microBatch", step, microBatch, loss, samples: batch.samples });
  if (!Number.isFinite(loss)) throw await notFinite(run, `the loss of ${namesOf(batch.samples)}`, moment);
  sums.lossSum += weightOf(run.options, batch) * loss;
  under.gradientNorm = gradientNorm;
}

/** What a micro-batch counts for in its step: one as another, or by their labels. */
function weightOf(options: TrainOptions, { labelTokens }: MicroBatch): number {
  return options.loss_scale === "batch" ? labelTokens : 1;
}

/** A step that was queued. */
interface Ended {
  step: number;
  sums: Accumulated;
  under: StepUnderWay;
  /** How many times too long its gradients were. */
  scaledBy: number;
  lr: number;
  /** That the update took to be queued. */
  updateMs: number;
  totalSteps: number;
  peaks: ReturnType<PeakWatch["endStep"]>;
}

/** The optimizer's step over what was accumulated, and its record. */
async function updateFactors(run: Running): Promise<void> {
  const { state, options, schedule, under } = run;
  const sums = state.accumulated;
  const scaledBy = sums.weightSum * (state.lossScale?.scale ?? 1);
  // float16: on whether this step's gradients overflow hangs the scale of the next micro-batch, so that cannot be queued before
  if (state.lossScale || !under.norm) await run.late.all();
  const startMs = performance.now();
  if (!under.norm) measureNorm(run); // the data's end came before the step's last micro-batch
  const overflows = state.lossScale && isOverflow(under.gradientNorm! / scaledBy, state.lossScale);
  if (overflows) return skipStep(run, state.lossScale!);
  const lr = learningRate(state.step + 1, schedule);
  updateWithin(run, lr, () => clippedScale(under.norm!, options.max_grad_norm, scaledBy));
  if (state.lossScale) state.lossScale = afterGoodStep(state.lossScale);
  endStep(run);
  const updateMs = performance.now() - startMs;
  const { step, totalSteps } = state;
  const peaks = run.watch.endStep();
  await run.late.follow(() =>
    tellStep(run, { step, sums, under, scaledBy, lr, updateMs, totalSteps, peaks }),
  );
}

function measureNorm(run: Running): void {
  run.under.norm = normWithin(run);
  run.under.gradientNorm = run.under.norm.item();
}

async function tellStep(run: Running, ended: Ended): Promise<void> {
  const { step, sums, under, scaledBy, lr, totalSteps } = ended;
  const { options, emit } = run;
  const gradNorm = under.gradientNorm! / scaledBy;
  if (!Number.isFinite(gradNorm)) {
    const subject = `the gradient of ${namesOf(under.samples)}`;
    throw await notFinite(run, subject, { step, isUntried: false });
  }
  const { defects, ...peaks } = ended.peaks;
  const stepMs = sums.elapsedMs + ended.updateMs;
  const record: StepRecord = {
    step,
    loss: sums.lossSum / sums.weightSum,
    gradNorm,
    lr,
    tokens: sums.tokens,
    tokensPerSecond: (sums.tokens / stepMs) * 1000,
    ...recordOf(peaks, options.planned_step),
    stepMs,
    dataWaitRatio: sums.dataWaitMs / stepMs,
    epoch: sums.epoch,
  };
  await withWayOn(run, async () => {
    await appendRecord(join(options.output, STEPS_FILE), record);
    for (const { trace: _, ...defect } of defects)
      await appendRecord(join(options.output, DEFECTS_FILE), { step, ...defect });
  });
  emit({ event: "step", record, totalSteps, peaks });
  for (const { trace, ...defect } of defects) emit({ event: "defect", step, defect, trace });
}

/** Leaves the factors as they are, for float16 could not hold their gradients; there is no record of such a step. */
function skipStep(run: Running, before: LossScale): void {
  const { state, lora } = run;
  zeroGradients(lora);
  const after = afterOverflow(before);
  state.lossScale = after;
  endStep(run);
  run.watch.endStep();
  run.notice(
    `step ${state.step}: the gradients overflow float16, so the factors stay as they are; the loss scale is ${after.scale} from here on`,
  );
}

function endStep(run: Running): void {
  run.state.step += 1;
  run.state.accumulated = emptyStep();
  dispose(run.under.norm);
  run.under = beginStep();
  run.saved = false;
}
