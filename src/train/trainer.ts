/**
 * The training loop: micro-batches, accumulation, optimizer step, evaluation, checkpoint, until the last step or an interruption. A run that
 * was stopped at any moment, even killed, and goes on from its last checkpoint ends with the same bytes as one that was never stopped.
 */
import { join } from "node:path";
import { describeSource } from "../data/badSamples.ts";
import { createBatches, type MicroBatch } from "../data/batches.ts";
import type { SampleSource } from "../data/samples.ts";
import { UserError } from "../errors.ts";
import { mixSeed } from "../nn/dropout.ts";
import { clipCoefficient, gradientNorm, stepAdamW } from "../step/optimizer.ts";
import { type StepPhase, type StepResult, trainStep } from "../step/step.ts";
import { OutOfMemoryError } from "../torch/device.ts";
import { EMPTY_STEP, pruneCheckpoints, saveAdapter, saveCheckpoint, type Trained } from "./checkpoints.ts";
import { takePeakBytes } from "./compute.ts";
import { drive } from "./drive.ts";
import { evaluate } from "./evaluate.ts";
import { type TrainInput, type TrainOptions, trainOptions } from "./options.ts";
import { ADAPTER_FOLDER, BEST_FOLDER } from "./resume.ts";
import { appendRecord, EVALS_FILE, type EvalRecord, STEPS_FILE, type StepRecord } from "./runLog.ts";
import { learningRate } from "./schedule.ts";
import { type Closers, openRun, type Run } from "./setup.ts";

export type TrainEvent =
  | { event: "start"; options: TrainOptions; step: number; totalSteps: number; samples: number }
  | { event: "notice"; text: string }
  | { event: "phase"; step: number; microBatch: number; phase: StepPhase }
  | { event: "microBatch"; step: number; microBatch: number; loss: number; samples: SampleSource[] }
  | { event: "step"; record: StepRecord; totalSteps: number }
  | { event: "eval"; record: EvalRecord; best: boolean }
  | { event: "checkpoint"; step: number; folder: string };

export interface TrainHooks {
  /** Ends the run after the current micro-batch, with a checkpoint. */
  signal?: AbortSignal;
  onEvent?: (event: TrainEvent) => void;
}

/** Where the result lies: the adapter, or the checkpoint that the run can go on from. */
export type TrainResult =
  | { ended: "finished"; step: number; adapter: string }
  | { ended: "interrupted"; step: number; checkpoint: string };

/** Trains as the options say. Throws UserError for what the caller can mend; what was done up to the last checkpoint stays. */
export async function train(input: TrainInput, { signal, onEvent }: TrainHooks = {}): Promise<TrainResult> {
  const emit = onEvent ?? (() => {});
  const closers: Closers = [];
  try {
    const run = await openRun(trainOptions(input), (text) => emit({ event: "notice", text }), closers);
    const { step, totalSteps } = run.state;
    emit({ event: "start", options: run.options, step, totalSteps, samples: run.data.samples.length });
    return await runToEnd({ ...run, signal, emit, saved: step > 0 });
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

interface Running extends Run {
  signal: AbortSignal | undefined;
  emit: (event: TrainEvent) => void;
  /** Whether the state is that of the last checkpoint. */
  saved: boolean;
}

async function runToEnd(run: Running): Promise<TrainResult> {
  const { state, data, options, emit } = run;
  const { samples, sampler, packing, draws, pictures } = data;
  const onBadPicture = (_: SampleSource, { message }: UserError): void =>
    emit({ event: "notice", text: message });
  const source = { samples, sampler, packing, draws, pictures, ...(options.skip_bad && { onBadPicture }) };
  const batches = createBatches(source, state.data);
  try {
    for (;;) {
      await evaluateWhenDue(run);
      if (isDue(run, options.save_every) && !run.saved) await save(run);
      if (state.step === state.totalSteps) return await finish(run);
      const outcome = await takeStep(run, batches);
      if (outcome === "interrupted") return await interrupt(run);
      if (outcome === "no data") state.totalSteps = state.step; // pictures that went bad left fewer samples than planned
    }
  } finally {
    await batches.return(undefined);
  }
}

/** One optimizer step, or as much of it as comes before an interruption. */
async function takeStep(
  run: Running,
  batches: AsyncGenerator<MicroBatch>,
): Promise<"done" | "interrupted" | "no data"> {
  const { state, options, signal } = run;
  while (state.accumulated.microBatches < options.gradient_accumulation) {
    if (signal?.aborted) return "interrupted";
    const startMs = performance.now();
    const { value: batch, done } = await batches.next();
    if (done) break;
    const result = await accumulate(run, batch);
    state.microBatches += 1;
    state.data = batch.position;
    addToStep(run, batch, result, performance.now() - startMs);
  }
  if (state.accumulated.microBatches === 0) return "no data";
  await updateFactors(run);
  return "done";
}

/** Adds a micro-batch's gradients to those of the step. */
async function accumulate(run: Running, batch: MicroBatch): Promise<StepResult> {
  const { model, lora, policy, state, options, emit } = run;
  const [step, microBatch] = [state.step + 1, state.accumulated.microBatches + 1];
  const lossScale = weightOf(options, batch.labelTokens);
  const dropoutSeed = mixSeed(BigInt(options.seed), state.microBatches);
  try {
    const steps = trainStep(model, lora, batch, policy, { lossScale, dropoutSeed });
    const result = await drive(steps, (phase) => emit({ event: "phase", step, microBatch, phase }));
    emit({ event: "microBatch", step, microBatch, loss: result.loss, samples: batch.samples });
    if (Number.isFinite(result.loss)) return result;
  } catch (thrown) {
    throw thrown instanceof OutOfMemoryError ? outOfMemory(run, batch, thrown) : thrown;
  }
  throw notFinite(run, "loss", `The loss of ${namesOf(batch.samples)}`);
}

/** What a micro-batch counts for in its step: one as another, or by their labels. */
function weightOf(options: TrainOptions, labelTokens: number): number {
  return options.loss_scale === "batch" ? labelTokens : 1;
}

function addToStep(
  { state, options }: Running,
  batch: MicroBatch,
  result: StepResult,
  elapsedMs: number,
): void {
  const before = state.accumulated;
  const weight = weightOf(options, result.labelTokens);
  state.accumulated = {
    microBatches: before.microBatches + 1,
    weightSum: before.weightSum + weight,
    lossSum: before.lossSum + weight * result.loss,
    tokens: before.tokens + batch.inputIds.length,
    elapsedMs: before.elapsedMs + elapsedMs,
    dataWaitMs: before.dataWaitMs + batch.dataWaitMs,
    epoch: batch.epoch,
  };
}

/** The optimizer's step over what was accumulated, and its record. */
async function updateFactors(run: Running): Promise<void> {
  const { state, options, optimizer, schedule, emit } = run;
  const { weightSum, lossSum, tokens, dataWaitMs, epoch, ...sums } = state.accumulated;
  const startMs = performance.now();
  const gradNorm = gradientNorm(optimizer.parameters) / weightSum;
  if (!Number.isFinite(gradNorm)) throw notFinite(run, "gradient", "The gradient");
  const lr = learningRate(state.step + 1, schedule);
  stepAdamW(optimizer, lr, clipCoefficient(gradNorm, options.max_grad_norm) / weightSum);
  state.step += 1;
  state.accumulated = EMPTY_STEP;
  run.saved = false;

  const stepMs = sums.elapsedMs + performance.now() - startMs;
  const record: StepRecord = {
    step: state.step,
    loss: lossSum / weightSum,
    gradNorm,
    lr,
    tokens,
    tokensPerSecond: (tokens / stepMs) * 1000,
    peakBytes: takePeakBytes(run.model.device),
    stepMs,
    dataWaitRatio: dataWaitMs / stepMs,
    epoch,
  };
  await appendRecord(join(options.output, STEPS_FILE), record);
  emit({ event: "step", record, totalSteps: state.totalSteps });
}

/** Every so many steps, and at the end. */
function isDue({ state }: Running, every: number | undefined): boolean {
  const { step, totalSteps } = state;
  return step > 0 && (step === totalSteps || (every !== undefined && step % every === 0));
}

async function evaluateWhenDue(run: Running): Promise<void> {
  const { state, options, data, emit, signal } = run;
  const { step, evals } = state;
  if (data.evalSamples.length === 0 || !isDue(run, options.eval_every)) return;
  if (evals.at(-1)?.step === step || signal?.aborted) return;
  const evaluation = await evaluate(data.evalSamples, { ...run, ...data });
  if (!evaluation) return;
  const record: EvalRecord = { step, ...evaluation };
  const best = evals.every(({ loss }) => record.loss < loss);
  state.evals = [...evals, record];
  run.saved = false;
  if (best) await onDisk(run, () => saveAdapter(join(options.output, BEST_FOLDER), trainedOf(run)));
  await appendRecord(join(options.output, EVALS_FILE), record);
  emit({ event: "eval", record, best });
}

async function save(run: Running): Promise<void> {
  const { options, state, emit } = run;
  run.checkpoint = await onDisk(run, () => saveCheckpoint(options.output, state, trainedOf(run)));
  run.saved = true;
  await pruneCheckpoints(options.output, options.keep_checkpoints);
  emit({ event: "checkpoint", step: state.step, folder: run.checkpoint });
}

async function finish(run: Running): Promise<TrainResult> {
  const adapter = join(run.options.output, ADAPTER_FOLDER);
  await onDisk(run, () => saveAdapter(adapter, trainedOf(run)));
  return { ended: "finished", step: run.state.step, adapter };
}

async function interrupt(run: Running): Promise<TrainResult> {
  if (!run.saved || run.state.accumulated.microBatches > 0) await save(run);
  return { ended: "interrupted", step: run.state.step, checkpoint: run.checkpoint! };
}

function trainedOf({ lora, optimizer, options }: Run): Trained {
  return { lora, optimizer, baseModel: options.model };
}

/** Adds to an error of the disk what is safe and how to go on. */
async function onDisk<T>(run: Run, write: () => Promise<T>): Promise<T> {
  try {
    return await write();
  } catch (cause) {
    if (!(cause instanceof UserError)) throw cause;
    throw new UserError(cause.message, { fix: [cause.fix, howToGoOn(run)].join("\n"), cause });
  }
}

function howToGoOn({ checkpoint, options }: Run): string {
  if (checkpoint === undefined) return "There is no checkpoint yet: then start again.";
  return `The last good checkpoint is ${checkpoint}. Go on from it: npx lorafit train --resume ${options.output}`;
}

function outOfMemory(run: Running, batch: MicroBatch, cause: OutOfMemoryError): UserError {
  const tokens = batch.inputIds.length.toLocaleString("en-US");
  return new UserError(
    `Step ${run.state.step + 1}: ${namesOf(batch.samples)} (${tokens} tokens) does not fit: ${cause.message}.`,
    {
      fix: `Pass more --memory, a lower --hd-num, or --boundaries host, a higher --head-groups, a smaller --mlp-tile.\n${howToGoOn(run)}`,
      cause,
    },
  );
}

function notFinite(
  { state, checkpoint, options }: Running,
  what: "loss" | "gradient",
  subject: string,
): UserError {
  const good =
    checkpoint === undefined ? "There is no checkpoint yet" : `The last good checkpoint is ${checkpoint}`;
  const start = checkpoint === undefined ? "" : `--adapter ${checkpoint} `;
  return new UserError(`Step ${state.step + 1}: ${subject} is not a finite number. ${good}.`, {
    fix:
      what === "loss"
        ? `Look at it with lorafit preview, leave it out, or start with a lower rate: ${start}--learning-rate ${options.learning_rate / 2} --output <another folder>`
        : `Start with a lower rate: ${start}--learning-rate ${options.learning_rate / 2} --output <another folder>`,
  });
}

function namesOf(samples: readonly SampleSource[]): string {
  return samples.map(describeSource).join(", ");
}
