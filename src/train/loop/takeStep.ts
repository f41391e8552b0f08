/**
 * One step of the optimizer. Its micro-batches and its update are queued, and reported one micro-batch late,
 * when a card has computed them. Whether the update changes anything is the device's decision: if the loss or
 * the norm is not finite, it changes nothing.
 */
import type { MicroBatch } from "../../data/stream/batches.ts";
import { zeroGradients } from "../../models/lora.ts";
import { afterGoodStep, afterOverflow, isOverflow, type LossScale } from "../../step/optimizer/lossScale.ts";
import { clippedScale } from "../../step/optimizer/updateGate.ts";
import type { QueuedStep } from "../../step/step.ts";
import { dispose } from "../../torch/tensor.ts";
import { type Accumulated, emptyStep } from "../folder/checkpoints.ts";
import type { StepRecord } from "../folder/runLog.ts";
import type { TrainOptions } from "../options/options.ts";
import { learningRate } from "../options/schedule.ts";
import type { Waited } from "./dataWait.ts";
import { type PeakWatch, recordOf } from "./peakWatch.ts";
import { runMicroBatch, undoMicroBatch } from "./retry.ts";
import { beginStep, type Running, type StepUnderWay } from "./running.ts";
import { namesOf, notFinite, withWayOn } from "./stopErrors.ts";
import { normWithin, updateWithin } from "./update.ts";

/** A place in the run. */
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
  /** Time to queue it, and idle time of the device before it. */
  queuedMs: number;
  dataWaitMs: number;
}

/** When a micro-batch began, the idle time of the device before it, and its number in the step, from 1. */
interface Beginning {
  startMs: number;
  dataWaitMs: number;
  number: number;
}

/** Takes one step, or as much of it as comes before an interruption. */
export async function takeStep(
  run: Running,
  nextBatch: () => Promise<Waited<IteratorResult<MicroBatch, unknown>> | undefined>,
): Promise<"done" | "interrupted" | "no data"> {
  const { signal, inputs, progress } = run;
  const { state } = progress;
  run.watch.startStep();
  while (state.accumulated.microBatches < inputs.options.gradient_accumulation) {
    if (signal?.aborted) return "interrupted";
    const startMs = performance.now();
    const waited = await nextBatch();
    if (!waited) return "interrupted";
    const { value: batch, done } = waited.value;
    if (done) break;
    state.accumulated.dataWaitMs += waited.stalledMs;
    const number = state.accumulated.microBatches + 1;
    await accumulate(run, batch, { startMs, dataWaitMs: waited.stalledMs, number });
  }
  if (state.accumulated.microBatches === 0) return "no data";
  await updateFactors(run);
  return "done";
}

/** Adds a micro-batch's gradients to those of the step. */
export async function accumulate(
  run: Running,
  batch: MicroBatch,
  { startMs, dataWaitMs, number: microBatch }: Beginning,
): Promise<void> {
  const { inputs, progress, under } = run;
  const { state } = progress;
  const sums = state.accumulated;
  const step = state.step + 1;
  const moment = { step, microBatch, isUntried: progress.saved && sums.microBatches === 0 };
  const weight = weightOf(inputs.options, batch);
  const dataMs = performance.now();
  const once = (): Promise<QueuedStep> => {
    run.watch.begin(batch);
    return runMicroBatch(run, batch, weight * (state.lossScale?.scale ?? 1), {
      onPhase: (phase) => {
        run.watch.passed(phase.phase, phase);
        run.facts.say({ fact: "phase", step, microBatch, phase });
      },
      onRanOut: (cause) => run.watch.ranOut(batch, cause),
    });
  };
  let queued = await once();
  if (run.watch.add(batch)) {
    queued[Symbol.dispose]();
    dispose(queued.norm);
    undoMicroBatch(run);
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
  const nowMs = performance.now();
  sums.elapsedMs += nowMs - startMs;
  const taken = { batch, moment, sums, under, queuedMs: nowMs - dataMs, dataWaitMs };
  await run.late.add({
    isDone: queued.isDone,
    isBusy: queued.isBusy,
    tell: () => reportMicroBatch(run, taken, queued),
    [Symbol.dispose]: () => queued[Symbol.dispose](),
  });
}

/**
 * Waits for a micro-batch's numbers and reports them. The wait is time of its own, not of the micro-batch
 * that was queued before.
 */
async function reportMicroBatch(run: Running, taken: Taken, queued: QueuedStep): Promise<void> {
  const { batch, moment, sums, under, dataWaitMs } = taken;
  const { step, microBatch } = moment;
  const { samples, labelTokens } = batch;
  const startMs = performance.now();
  await queued.arrival();
  const { loss, gradientNorm } = queued.read();
  const waitedMs = performance.now() - startMs;
  sums.elapsedMs += waitedMs;
  const size = { samples, tokens: batch.inputIds.length };
  const elapsedMs = taken.queuedMs + waitedMs;
  if (elapsedMs > (under.slowest?.elapsedMs ?? 0)) under.slowest = { ...size, elapsedMs };
  await run.facts.send({
    fact: "microBatch",
    loss: Number.isFinite(loss) ? loss : null,
    pictures: batch.images.length,
    ...{ step, microBatch, ...size, labelTokens, elapsedMs, dataWaitMs },
  });
  if (!Number.isFinite(loss)) throw await notFinite(run, `the loss of ${namesOf(samples)}`, moment);
  const weightedLoss = weightOf(run.inputs.options, batch) * loss;
  sums.lossSum += weightedLoss;
  under.weightedLosses.push(weightedLoss);
  under.gradientNorm = gradientNorm;
}

/** Returns what a micro-batch counts for in its step: 1, or its labels. */
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
  /** Time to queue the update. */
  updateMs: number;
  totalSteps: number;
  peaks: ReturnType<PeakWatch["endStep"]>;
}

/** Updates the factors by what was accumulated, and records the step. */
export async function updateFactors(run: Running): Promise<void> {
  const { inputs, progress, under } = run;
  const { options, schedule } = inputs;
  const { state } = progress;
  const sums = state.accumulated;
  const scaledBy = sums.weightSum * (state.lossScale?.scale ?? 1);
  // float16: the scale of the next micro-batch depends on whether this step's gradients overflow, so it can't
  // be queued before
  if (state.lossScale || !under.norm) await run.late.all();
  const startMs = performance.now();
  if (!under.norm) measureNorm(run); // ranks added up, or the data ended before the step's last micro-batch
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
    reportStep(run, { step, sums, under, scaledBy, lr, updateMs, totalSteps, peaks }),
  );
}

function measureNorm(run: Running): void {
  run.under.norm = normWithin(run);
  run.under.gradientNorm = run.under.norm.item();
}

async function reportStep(run: Running, ended: Ended): Promise<void> {
  const { step, under, totalSteps } = ended;
  const { facts, inputs } = run;
  const gradNorm = under.gradientNorm! / ended.scaledBy;
  if (!Number.isFinite(gradNorm)) {
    const subject = `the gradient of ${namesOf(under.samples)}`;
    throw await notFinite(run, subject, { step, isUntried: false });
  }
  const { defects, memory, ...peaks } = ended.peaks;
  const record = stepRecord(ended, gradNorm, recordOf(peaks, inputs.options.planned_step));
  await withWayOn(run, async () => {
    await facts.send({ fact: "step", record, totalSteps, peaks });
    if (memory) await facts.send({ fact: "memory", memory });
    for (const { trace, ...defect } of defects)
      await facts.send({ fact: "defect", step, defect, ...(trace && { trace }) });
  });
}

function stepRecord(
  { step, sums, under, lr, updateMs }: Ended,
  gradNorm: number,
  memory: ReturnType<typeof recordOf>,
): StepRecord {
  const stepMs = sums.elapsedMs + updateMs;
  return {
    step,
    loss: sums.lossSum / sums.weightSum,
    gradNorm,
    lr,
    tokens: sums.tokens,
    tokensPerSecond: (sums.tokens / stepMs) * 1000,
    ...memory,
    stepMs,
    dataWaitRatio: sums.dataWaitMs / stepMs,
    epoch: sums.epoch,
    ...(under.ranks && { ranks: under.ranks.ranks, waitRatio: under.ranks.waitedMs / stepMs }),
    ...(under.slowest && { slowest: under.slowest }),
  };
}

/**
 * Leaves the factors as they are, because float16 could not hold their gradients. Such a step has no record.
 */
function skipStep(run: Running, before: LossScale): void {
  const { state } = run.progress;
  zeroGradients(run.loaded.lora);
  const after = afterOverflow(before);
  state.lossScale = after;
  endStep(run);
  const { memory } = run.watch.endStep();
  if (memory) run.facts.say({ fact: "memory", memory });
  run.facts.notice(
    `step ${state.step}: the gradients overflow float16, so the factors stay as they are; the loss scale is ${after.scale} from here on`,
  );
}

function endStep(run: Running): void {
  const { progress } = run;
  progress.state.step += 1;
  progress.state.accumulated = emptyStep();
  progress.saved = false;
  dispose(run.under.norm);
  run.under = beginStep();
}
