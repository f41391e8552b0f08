/**
 * The training loop: micro-batches, accumulation, optimizer step, evaluation, checkpoint, until the last step or an interruption. A run that
 * was stopped at any moment, even killed, and goes on from its last checkpoint with the same options ends with the same bytes as one that was
 * never stopped.
 */
import { join } from "node:path";
import { describeSource } from "../../data/samples/badSamples.ts";
import type { SampleSource } from "../../data/samples/sample.ts";
import { createBatches, type MicroBatch } from "../../data/stream/batches.ts";
import { faultOf, formatCount, UserError } from "../../errors.ts";
import type { StepPhase } from "../../step/phases.ts";
import { OutOfMemoryError } from "../../torch/device.ts";
import { dispose } from "../../torch/tensor.ts";
import { type Evaluator, evaluate } from "../evaluate/evaluate.ts";
import { pruneCheckpoints, saveAdapter, saveCheckpoint, type Trained } from "../folder/checkpoints.ts";
import { ADAPTER_FOLDER, BEST_FOLDER } from "../folder/resume.ts";
import { lockOutput } from "../folder/runLock.ts";
import { appendRecord, EVALS_FILE, type EvalRecord, type StepRecord } from "../folder/runLog.ts";
import { type TrainInput, type TrainOptions, trainOptions } from "../options/options.ts";
import { waitFor } from "./dataWait.ts";
import type { Defect, DefectTrace } from "./defectTrace.ts";
import { Late } from "./lateReading.ts";
import { type Closers, type OpenHooks, openRun, type PlannedRun, type Run } from "./openRun.ts";
import { PeakWatch, type StepPeaks } from "./peakWatch.ts";
import { fitting } from "./retry.ts";
import { cardFailed, isCardFault, namesOf, notFinite, ranOut, withWayOn } from "./stopErrors.ts";
import { beginStep, type StepUnderWay, takeStep } from "./takeStep.ts";

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
  /** Of the samples, before all else. */
  | { event: "check"; done: number; total: number }
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
      onCheck: (done, total) => emit({ event: "check", done, total }),
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
    const late = new Late();
    const running: Running = { ...run, signal, emit, saved, watch, late, under: beginStep() };
    closers.push(() => dispose(running.under.norm));
    closers.push(() => late[Symbol.dispose]());
    return await runToEnd(running).catch(async (thrown) => {
      const first = await firstOf(running, thrown);
      throw isCardFault(first) ? cardFailed(running, first) : first;
    });
  } catch (thrown) {
    throw thrown instanceof OutOfMemoryError ? ranOut("The run", thrown) : thrown;
  } finally {
    for (const close of closers.reverse()) await closed(close);
  }
}

/** What was queued before an error is told first; where that fails, it is the error. */
async function firstOf({ late }: Running, thrown: unknown): Promise<unknown> {
  try {
    await late.all();
    return thrown;
  } catch (earlier) {
    return earlier instanceof UserError ? earlier : thrown; // of a card that is lost the first word says most
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

/** A run that is going on. */
export interface Running extends Run {
  signal: AbortSignal | undefined;
  emit: (event: TrainEvent) => void;
  /** Whether the state is that of the last checkpoint. */
  saved: boolean;
  watch: PeakWatch;
  /** What is queued and not told yet. */
  late: Late;
  under: StepUnderWay;
}

async function runToEnd(run: Running): Promise<TrainResult> {
  const { state, options, signal } = run;
  const batches = openBatches(run);
  try {
    for (;;) {
      if ((await evaluateWhenDue(run)) === "interrupted") return await interrupt(run);
      if (isDue(run, options.save_every) && !run.saved) await save(run);
      if (state.step === state.totalSteps) return await finish(run);
      const outcome = await takeStep(run, () =>
        savingFirst(run, () => waitFor(batches.next(), { signal, isBusy: () => run.late.isBusy() })),
      );
      if (outcome === "interrupted") return await interrupt(run);
      if (outcome === "no data") state.totalSteps = state.step; // pictures that went bad left fewer samples than planned
    }
  } finally {
    void batches.return(undefined); // where it waits for a picture that does not come, closing the pool ends it
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

/** Where what needs data fails, as a picture is gone or bad, what was learned up to it is saved before that is told. */
async function savingFirst<T>(run: Running, part: () => Promise<T>): Promise<T> {
  try {
    return await part();
  } catch (thrown) {
    await run.late.all(); // what fails in this came first
    if (isUnsaved(run)) await save(run).catch(() => {}); // the first error is what matters
    return await withWayOn(run, () => Promise.reject(thrown));
  }
}

/** Whether there is progress that no checkpoint has. */
function isUnsaved({ state, saved }: Running): boolean {
  return state.microBatches > 0 && (!saved || state.accumulated.microBatches > 0);
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
  await run.late.all();
  if (signal?.aborted) return "interrupted";
  const evaluation = await savingFirst(run, () => evaluate(data.evalSamples, evaluatorOf(run)));
  if (!evaluation) return signal?.aborted ? "interrupted" : "done";
  if ("notFinite" in evaluation)
    throw await notFinite(run, `the loss of ${namesOf([evaluation.notFinite])}`, {
      step: step + 1,
      isUntried: run.saved && state.accumulated.microBatches === 0,
    });
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
  const { options, state, emit, late } = run;
  await late.all();
  run.checkpoint = await withWayOn(run, () => saveCheckpoint(options.output, state, trainedOf(run)));
  run.saved = true;
  await pruneCheckpoints(options.output, options.keep_checkpoints).catch((cause) =>
    run.notice(`an old checkpoint can't be removed, and stays: ${faultOf(cause)}`),
  );
  emit({ event: "checkpoint", step: state.step, folder: run.checkpoint });
}

async function finish(run: Running): Promise<TrainResult> {
  const adapter = join(run.options.output, ADAPTER_FOLDER);
  await run.late.all();
  await withWayOn(run, () => saveAdapter(adapter, trainedOf(run)));
  return { ended: "finished", step: run.state.step, adapter };
}

async function interrupt(run: Running): Promise<TrainResult> {
  await run.late.all();
  if (!run.saved || run.state.accumulated.microBatches > 0) await save(run);
  return { ended: "interrupted", step: run.state.step, checkpoint: run.checkpoint! };
}

function trainedOf({ lora, optimizer, options }: Run): Trained {
  return { lora, optimizer, baseModel: options.model };
}
