/**
 * The training loop: micro-batches, accumulation, optimizer step, evaluation, checkpoint, until the last step or an interruption. A run that
 * was stopped at any moment, even killed, and goes on from its last checkpoint with the same options ends with the same bytes as one that was
 * never stopped.
 */
import { join } from "node:path";
import { describeSource } from "../data/badSamples.ts";
import { createBatches, type MicroBatch } from "../data/batches.ts";
import type { SampleSource } from "../data/samples.ts";
import { formatCount, type UserError } from "../errors.ts";
import { zeroGradients } from "../models/lora.ts";
import { afterGoodStep, afterOverflow, isOverflow, type LossScale } from "../step/lossScale.ts";
import { clipCoefficient } from "../step/optimizer.ts";
import type { StepPhase, StepResult } from "../step/step.ts";
import { OutOfMemoryError } from "../torch/device.ts";
import { EMPTY_STEP, pruneCheckpoints, saveAdapter, saveCheckpoint, type Trained } from "./checkpoints.ts";
import type { DefectTrace } from "./defectTrace.ts";
import { type Evaluator, evaluate } from "./evaluate.ts";
import { lockOutput } from "./lock.ts";
import { fitting, runMicroBatch } from "./microBatch.ts";
import { type TrainInput, type TrainOptions, trainOptions } from "./options.ts";
import { type Defect, PeakWatch, recordOf, type StepPeaks } from "./peakWatch.ts";
import { ADAPTER_FOLDER, BEST_FOLDER } from "./resume.ts";
import {
  appendRecord,
  DEFECTS_FILE,
  EVALS_FILE,
  type EvalRecord,
  STEPS_FILE,
  type StepRecord,
} from "./runLog.ts";
import { learningRate } from "./schedule.ts";
import { type Closers, type OpenHooks, openRun, type PlannedRun, type Run } from "./setup.ts";
import { cardFailed, isCardFault, namesOf, notFinite, ranOut, withWayOn } from "./stops.ts";
import { normWithin, updateWithin } from "./update.ts";

export type TrainEvent =
  /** stepsBefore: the records of steps that earlier parts of the run have done; none of a new run. */
  | {
      event: "start";
      options: TrainOptions;
      step: number;
      totalSteps: number;
      samples: number;
      stepsBefore: readonly StepRecord[];
    }
  /** Before anything heavy is loaded. */
  | ({ event: "plan" } & PlannedRun)
  /** about: that a card is left idle, which scripts are told as well. */
  | { event: "notice"; text: string; about?: "idleCard" }
  | { event: "phase"; step: number; microBatch: number; phase: StepPhase }
  | { event: "microBatch"; step: number; microBatch: number; loss: number; samples: SampleSource[] }
  | { event: "step"; record: StepRecord; totalSteps: number; peaks: StepPeaks }
  /** A step took more memory than its plan: the plan is wrong. */
  | { event: "defect"; step: number; defect: Defect; trace: DefectTrace }
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
    const hooks: OpenHooks = {
      notice: (text, about) => emit({ event: "notice", text, ...(about && { about }) }),
      onPlan: (planned) => emit({ event: "plan", ...planned }),
    };
    const options = trainOptions(input);
    closers.push(lockOutput(options.output));
    const run = await openRun(options, hooks, closers);
    const { step, totalSteps } = run.state;
    const { stepsBefore } = run;
    const samples = run.data.samples.length;
    emit({ event: "start", options: run.options, step, totalSteps, samples, stepsBefore });
    const saved = run.checkpoint !== undefined;
    const watch = new PeakWatch(run);
    closers.push(() => watch.stop());
    const running = {
      ...run,
      signal,
      emit,
      saved,
      stepSamples: [],
      gradientNorm: undefined,
      watch,
    };
    return await runToEnd(running).catch((thrown) => {
      throw isCardFault(thrown) ? cardFailed(running, thrown) : thrown;
    });
  } catch (thrown) {
    throw thrown instanceof OutOfMemoryError ? ranOut("The run", thrown) : thrown;
  } finally {
    for (const close of closers.reverse()) await closed(close);
  }
}

/** On a card that is lost nothing can be freed, which must not hide why. */
async function closed(close: Closers[number]): Promise<void> {
  try {
    await close();
  } catch (thrown) {
    if (!isCardFault(thrown)) throw thrown;
  }
}

interface Running extends Run {
  signal: AbortSignal | undefined;
  emit: (event: TrainEvent) => void;
  /** Whether the state is that of the last checkpoint. */
  saved: boolean;
  watch: PeakWatch;
  /** Of the current step, as far as this process has seen them. */
  stepSamples: SampleSource[];
  /** Of all gradients of the step, where its last micro-batch has told. */
  gradientNorm: number | undefined;
}

async function runToEnd(run: Running): Promise<TrainResult> {
  const { state, options } = run;
  const batches = openBatches(run);
  try {
    for (;;) {
      if ((await evaluateWhenDue(run)) === "interrupted") return await interrupt(run);
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

/** The micro-batches from where the run stands; with skip_bad, samples whose picture is gone by now are left out, and each is told once. */
function openBatches({ state, data, options, emit }: Running): AsyncGenerator<MicroBatch> {
  const { samples, sampler, packing, draws, pictures } = data;
  const source = { samples, sampler, packing, draws, pictures };
  if (!options.skip_bad) return createBatches(source, state.data);
  const left = new Set(samples.map((sample) => describeSource(sample.source)));
  const onBadPicture = (sample: SampleSource, error: UserError): void => {
    if (!left.delete(describeSource(sample))) return;
    if (left.size === 0) throw error; // else the search for one that is good would never end
    emit({ event: "notice", text: `left out: ${error.message}` });
  };
  return createBatches({ ...source, onBadPicture }, state.data);
}

/** One optimizer step, or as much of it as comes before an interruption. */
async function takeStep(
  run: Running,
  batches: AsyncGenerator<MicroBatch>,
): Promise<"done" | "interrupted" | "no data"> {
  const { state, options, signal } = run;
  run.watch.startStep();
  while (state.accumulated.microBatches < options.gradient_accumulation) {
    if (signal?.aborted) return "interrupted";
    const startMs = performance.now();
    const { value: batch, done } = await nextBatch(run, batches);
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

/** Where a picture is gone or bad, what was learned up to it is saved before that is told. */
async function nextBatch(
  run: Running,
  batches: AsyncGenerator<MicroBatch>,
): Promise<IteratorResult<MicroBatch, unknown>> {
  return await withWayOn(run, async () => {
    try {
      return await batches.next();
    } catch (thrown) {
      if (isUnsaved(run)) await save(run).catch(() => {}); // the first error is what matters
      throw thrown;
    }
  });
}

/** Whether there is progress that no checkpoint has. */
function isUnsaved({ state, saved }: Running): boolean {
  return state.microBatches > 0 && (!saved || state.accumulated.microBatches > 0);
}

/** Adds a micro-batch's gradients to those of the step. */
async function accumulate(run: Running, batch: MicroBatch): Promise<StepResult> {
  const { state, options, emit } = run;
  const [step, microBatch] = [state.step + 1, state.accumulated.microBatches + 1];
  const lossScale = weightOf(options, batch.labelTokens) * (state.lossScale?.scale ?? 1);
  const once = (): ReturnType<typeof runMicroBatch> => {
    run.watch.begin(batch);
    return runMicroBatch(run, batch, lossScale, (phase) => {
      run.watch.passed(phase.phase);
      emit({ event: "phase", step, microBatch, phase });
    });
  };
  let result = await once();
  if (run.watch.add(batch)) {
    run.backup.restore();
    result = await once();
    run.watch.add(batch);
  }
  emit({ event: "microBatch", step, microBatch, loss: result.loss, samples: batch.samples });
  if (!Number.isFinite(result.loss)) {
    throw await notFinite(run, `the loss of ${namesOf(batch.samples)}`, run.saved);
  }
  run.stepSamples.push(...batch.samples);
  run.gradientNorm = result.gradientNorm;
  return result;
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
  const { state, options, schedule, emit } = run;
  const { weightSum, lossSum, tokens, dataWaitMs, epoch, ...sums } = state.accumulated;
  const startMs = performance.now();
  const scaledBy = weightSum * (state.lossScale?.scale ?? 1);
  const gradNorm = (run.gradientNorm ?? normWithin(run)) / scaledBy;
  if (state.lossScale && isOverflow(gradNorm, state.lossScale)) return skipStep(run, state.lossScale);
  if (!Number.isFinite(gradNorm)) {
    throw await notFinite(run, `the gradient of ${namesOf(run.stepSamples)}`, run.saved);
  }
  const lr = learningRate(state.step + 1, schedule);
  updateWithin(run, lr, clipCoefficient(gradNorm, options.max_grad_norm) / scaledBy);
  if (state.lossScale) state.lossScale = afterGoodStep(state.lossScale);
  endStep(run);

  const stepMs = sums.elapsedMs + performance.now() - startMs;
  const { defects, ...peaks } = run.watch.endStep();
  const record: StepRecord = {
    step: state.step,
    loss: lossSum / weightSum,
    gradNorm,
    lr,
    tokens,
    tokensPerSecond: (tokens / stepMs) * 1000,
    ...recordOf(peaks, options.planned_step),
    stepMs,
    dataWaitRatio: dataWaitMs / stepMs,
    epoch,
  };
  await withWayOn(run, async () => {
    await appendRecord(join(options.output, STEPS_FILE), record);
    for (const { trace: _, ...defect } of defects)
      await appendRecord(join(options.output, DEFECTS_FILE), { step: state.step, ...defect });
  });
  emit({ event: "step", record, totalSteps: state.totalSteps, peaks });
  for (const { trace, ...defect } of defects) emit({ event: "defect", step: state.step, defect, trace });
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
  run.state.accumulated = EMPTY_STEP;
  run.stepSamples = [];
  run.gradientNorm = undefined;
  run.saved = false;
}

/** Every so many steps, and at the end. */
function isDue({ state }: Running, every: number | undefined): boolean {
  const { step, totalSteps } = state;
  return step > 0 && (step === totalSteps || (every !== undefined && step % every === 0));
}

async function evaluateWhenDue(run: Running): Promise<"done" | "interrupted"> {
  const { state, options, data, emit, signal } = run;
  const { step, evals } = state;
  const due = data.evalSamples.length > 0 && isDue(run, options.eval_every) && evals.at(-1)?.step !== step;
  if (!due) return "done";
  if (signal?.aborted) return "interrupted";
  const evaluation = await withWayOn(run, () => evaluate(data.evalSamples, evaluatorOf(run)));
  if (!evaluation) return signal?.aborted ? "interrupted" : "done";
  if ("notFinite" in evaluation)
    throw await notFinite(run, `the loss of ${namesOf([evaluation.notFinite])}`, run.saved);
  const record: EvalRecord = { step, ...evaluation };
  const best = evals.every((earlier) => isBetter(record, earlier));
  state.evals = [...evals, record];
  run.saved = false;
  await withWayOn(run, async () => {
    if (best) await saveAdapter(join(options.output, BEST_FOLDER), trainedOf(run));
    await appendRecord(join(options.output, EVALS_FILE), record);
  });
  emit({ event: "eval", record, best });
  return "done";
}

/** By the loss; one over fewer samples, for want of memory, says less. */
function isBetter(one: EvalRecord, other: EvalRecord): boolean {
  return one.samples === other.samples ? one.loss < other.loss : one.samples > other.samples;
}

/** The run's model and factors; losses under the policies of their lengths. */
function evaluatorOf(run: Running): Evaluator {
  const { model, lora, plan, losses, answers, data, signal } = run;
  return {
    ...{ model, lora, policy: plan.policy, pictures: data.pictures, tokenizer: data.tokenizer, signal },
    fitting: (source, tokens, body) => {
      const subject = `Evaluation: ${source}`;
      const otherwise = async ({ message }: OutOfMemoryError): Promise<undefined> => {
        const size = `${formatCount(tokens)} tokens`;
        run.notice(
          `${subject} (${size}): ${message}, and no leaner policy is left: it is left out of this one.`,
        );
        return undefined;
      };
      return fitting(run, { subject, tokens, ladder: losses!, otherwise }, body);
    },
    ...(answers && { hasRoom: answers.hasRoom }),
    onUnanswered: (source, { message }) => run.notice(`no answer to ${namesOf([source])}: ${message}`),
  };
}

async function save(run: Running): Promise<void> {
  const { options, state, emit } = run;
  run.checkpoint = await withWayOn(run, () => saveCheckpoint(options.output, state, trainedOf(run)));
  run.saved = true;
  await pruneCheckpoints(options.output, options.keep_checkpoints);
  emit({ event: "checkpoint", step: state.step, folder: run.checkpoint });
}

async function finish(run: Running): Promise<TrainResult> {
  const adapter = join(run.options.output, ADAPTER_FOLDER);
  await withWayOn(run, () => saveAdapter(adapter, trainedOf(run)));
  return { ended: "finished", step: run.state.step, adapter };
}

async function interrupt(run: Running): Promise<TrainResult> {
  if (!run.saved || run.state.accumulated.microBatches > 0) await save(run);
  return { ended: "interrupted", step: run.state.step, checkpoint: run.checkpoint! };
}

function trainedOf({ lora, optimizer, options }: Run): Trained {
  return { lora, optimizer, baseModel: options.model };
}
