/**
 * The training loop: micro-batches, accumulation, optimizer step, evaluation and checkpoint, until the last
 * step or an interruption. A run may be stopped at any moment, even killed. If it continues from its last
 * checkpoint with the same options, it ends with the same bytes as a run that was never stopped.
 */
import { join, resolve } from "node:path";
import { describeSource } from "../../data/samples/badSamples.ts";
import type { SampleSource } from "../../data/samples/sample.ts";
import { type BatchOptions, createBatches } from "../../data/stream/batches.ts";
import { faultOf, formatCount, messageOf, UserError } from "../../errors.ts";
import { OutOfMemoryError } from "../../torch/device.ts";
import { ALONE, type Peers } from "../../torch/peers/peers.ts";
import { dispose } from "../../torch/tensor.ts";
import { earlyStopReason, improves } from "../evaluate/best.ts";
import { type Evaluated, type Evaluator, evaluateInFull } from "../evaluate/evaluate.ts";
import { FactStream } from "../facts/factStream.ts";
import type { RunSink } from "../facts/runFact.ts";
import {
  checkpointFolder,
  pruneCheckpoints,
  saveAdapter,
  saveCheckpoint,
  type Trained,
} from "../folder/checkpoints.ts";
import { logSink } from "../folder/logSink.ts";
import { lockOutput } from "../folder/runLock.ts";
import { ADAPTER_FOLDER, BEST_FOLDER, type EvalRecord } from "../folder/runLog.ts";
import { intervalMs } from "../options/interval.ts";
import { type TrainInput, trainOptions } from "../options/options.ts";
import { sharersOf } from "../ranks/rowSharing.ts";
import { stepTogether } from "../ranks/stepTogether.ts";
import { isTogether, isWriter, openTogether } from "../ranks/together.ts";
import { trackerSinks } from "../sinks/trackers.ts";
import { waitFor } from "./dataWait.ts";
import { Late } from "./lateReading.ts";
import { type Closers, openRun } from "./openRun.ts";
import { PeakWatch } from "./peakWatch.ts";
import { fitting } from "./retry.ts";
import type { Run } from "./run.ts";
import { beginStep, type Running } from "./running.ts";
import { cardFailed, isCardFault, namesOf, notFinite, ranOut, withWayOn } from "./stopErrors.ts";
import { takeStep } from "./takeStep.ts";

export interface TrainHooks {
  /** Ends the run after the current micro-batch, with a checkpoint. */
  signal?: AbortSignal;
  /** Sinks for the facts of the run, beside its logs. */
  sinks?: readonly RunSink[];
  /**
   * The ranks that train together; default: this process alone. Every rank calls train() with the same
   * options. If it throws, call the peers' `fail`, so that the others end too.
   */
  peers?: Peers;
  /** Clock by which checkpoints are due, in milliseconds; a test sets its own. */
  nowMs?: () => number;
}

/**
 * How a run ended, and where its result lies: the adapter, or the checkpoint to continue from. An interrupted
 * run has the reason "stop_at_step" if that option ended it, and none if the signal did. A finished run that
 * ended before its last step has the reason "early_stop", and a message.
 */
export type TrainResult =
  | { ended: "finished"; step: number; adapter: string; reason?: "early_stop"; message?: string }
  | { ended: "interrupted"; step: number; checkpoint: string; reason?: "stop_at_step" };

/**
 * Trains with these options. Throws UserError for what the caller can fix; everything up to the last
 * checkpoint stays.
 */
export async function train(
  input: TrainInput,
  { signal, sinks = [], peers = ALONE, nowMs = () => performance.now() }: TrainHooks = {},
): Promise<TrainResult> {
  const closers: Closers = [];
  let facts = new FactStream(sinks);
  try {
    const { stop_at_step: stopAtStep, gpus: _, cpu_ranks: __, ...options } = trainOptions(input); // of this call alone
    if (isWriter({ peers })) closers.push(lockOutput(options.output));
    const notice = (text: string): void => facts.notice(text);
    const trackers = trackerSinks(options.report_to, { output: resolve(options.output), notice });
    if (isWriter({ peers })) facts = new FactStream([logSink(options.output), ...sinks, ...trackers]);
    const result = await runFrom(await openRun(options, { facts, closers, peers }), {
      signal,
      closers,
      nowMs,
      stopAtStep,
    });
    await facts.send({ fact: "end", ...result });
    return result;
  } catch (thrown) {
    const error = thrown instanceof OutOfMemoryError ? ranOut("The run", thrown) : thrown;
    const fix = error instanceof UserError && error.fix;
    await facts
      .send({ fact: "end", ended: "failed", message: messageOf(error), ...(fix && { fix }) })
      .catch(() => {}); // the error itself says most
    throw error;
  } finally {
    for (const close of closers.reverse()) await closed(close);
  }
}

async function runFrom(
  run: Run,
  {
    signal,
    closers,
    nowMs,
    stopAtStep = Number.POSITIVE_INFINITY,
  }: Pick<Running, "signal"> & { closers: Closers; nowMs: () => number; stopAtStep: number | undefined },
): Promise<TrainResult> {
  const { stepsBefore, state } = run.progress;
  const { options, data } = run.inputs;
  const { step, totalSteps } = state;
  await run.facts.send({
    fact: "start",
    ...{ options, step, totalSteps, samples: data.samples.length, stepsBefore },
  });
  const watch = new PeakWatch(run);
  closers.push(() => watch.stop());
  const late = new Late();
  const clock = { nowMs, savedMs: nowMs() };
  const together = isTogether(run) ? openTogether(run, batchesOf(run)) : undefined;
  const running: Running = { ...run, signal, stopAtStep, clock, watch, late, under: beginStep(), together };
  if (running.together) closers.push(() => running.together?.[Symbol.asyncDispose]());
  closers.push(() => dispose(running.under.norm));
  closers.push(() => late[Symbol.dispose]());
  return await runToEnd(running).catch(async (thrown) => {
    const first = await firstOf(running, thrown);
    throw isCardFault(first) ? cardFailed(running, first) : first;
  });
}

/**
 * Reports what was queued before an error. If that fails, returns that failure, which came first, instead of
 * the error.
 */
async function firstOf({ late }: Running, thrown: unknown): Promise<unknown> {
  try {
    await late.all();
    return thrown;
  } catch (earlier) {
    // if a card is lost, the first message says most
    return earlier instanceof UserError ? earlier : thrown;
  }
}

/** Closes one thing. On a card that is lost nothing can be freed, and that must not hide the error. */
async function closed(close: Closers[number]): Promise<void> {
  try {
    await close();
  } catch (thrown) {
    if (!isCardFault(thrown)) throw thrown;
  }
}

async function runToEnd(run: Running): Promise<TrainResult> {
  const result = await stepsToEnd(run);
  await run.peers.barrier(); // rank 0 has saved
  return result;
}

async function stepsToEnd(run: Running): Promise<TrainResult> {
  const { progress, signal, together } = run;
  const { state } = progress;
  const batches = createBatches(batchesOf(run), state.data); // begins to load when it is first asked
  try {
    for (;;) {
      if ((await evaluateWhenDue(run)) === "interrupted") return await interrupt(run);
      const early = state.step < state.totalSteps ? earlyStop(run) : undefined;
      if ((early || isSaveDue(run)) && !progress.saved) await save(run);
      if (early || state.step === state.totalSteps) return { ...(await finish(run)), ...early };
      if (state.step >= run.stopAtStep) return { ...(await interrupt(run)), reason: "stop_at_step" };
      const outcome = together
        ? await stepTogether(run, together, savingFirst)
        : await takeStep(run, () =>
            savingFirst(run, () => waitFor(batches.next(), { signal, isBusy: () => run.late.isBusy() })),
          );
      if (outcome === "interrupted") return await interrupt(run);
      // pictures that went bad left fewer samples than planned
      if (outcome === "no data") state.totalSteps = state.step;
    }
  } finally {
    void batches.return(undefined); // if it waits for a picture that does not come, closing the pool ends it
  }
}

/**
 * Returns the stream of micro-batches of a run. With skip_bad, it leaves out samples whose picture is gone by
 * now, and reports each once.
 */
function batchesOf({ inputs, facts }: Run): BatchOptions {
  const { samples, sampler, packing, draws, pictures } = inputs.data;
  const source = { samples, sampler, packing, draws, pictures };
  if (!inputs.options.skip_bad) return source;
  const left = new Set(samples.map((sample) => describeSource(sample.source)));
  const onBadPicture = (sample: SampleSource, error: UserError): void => {
    if (!left.delete(describeSource(sample))) return;
    if (left.size === 0) throw error; // else the search for a good sample would never end
    facts.notice(`left out: ${error.message}`);
  };
  return { ...source, onBadPicture };
}

/**
 * Runs `part`. If it fails, for example because a picture is missing, saves a checkpoint first, then throws
 * the error.
 */
async function savingFirst<T>(run: Running, part: () => Promise<T>): Promise<T> {
  try {
    return await part();
  } catch (thrown) {
    await run.late.all(); // a failure in what is queued came first
    if (isUnsaved(run)) await save(run).catch(() => {}); // the first error is what matters
    return await withWayOn(run, () => Promise.reject(thrown));
  }
}

/** Whether the run has progress that no checkpoint has. */
function isUnsaved({ progress: { state, saved } }: Running): boolean {
  return state.microBatches > 0 && (!saved || state.accumulated.microBatches > 0);
}

/** Whether something is due that comes every so many steps, and at the end. */
function isDue({ progress: { state } }: Running, every: number | undefined): boolean {
  const { step, totalSteps } = state;
  return step > 0 && (step === totalSteps || (every !== undefined && step % every === 0));
}

/** Whether a checkpoint is due: by steps, or when enough time has passed since the last one. */
function isSaveDue(run: Running): boolean {
  const { save_every } = run.inputs.options;
  if (typeof save_every === "number") return isDue(run, save_every);
  const passedMs = run.clock.nowMs() - run.clock.savedMs;
  return isDue(run, undefined) || (run.progress.state.step > 0 && passedMs >= intervalMs(save_every)!);
}

async function evaluateWhenDue(run: Running): Promise<"done" | "interrupted"> {
  const { inputs, progress, signal } = run;
  const { evalSamples } = inputs.data;
  const { step, evals, accumulated } = progress.state;
  const isEvaluated = evals.at(-1)?.step === step;
  if (evalSamples.length === 0 || isEvaluated || !isDue(run, inputs.options.eval_every)) return "done";
  await run.late.all();
  if (signal?.aborted && run.peers.count === 1) return "interrupted"; // ranks agree on it in the evaluation
  const evaluated = await savingFirst(run, () => evaluateInFull(evalSamples, evaluatorOf(run), run.peers));
  if (evaluated === "interrupted") return evaluated;
  if (!evaluated) return "done";
  if ("notFinite" in evaluated)
    throw await notFinite(run, `the loss of ${namesOf([evaluated.notFinite])}`, {
      step: step + 1,
      isUntried: progress.saved && accumulated.microBatches === 0,
    });
  await keepEvaluation(run, evaluated);
  return "done";
}

/** Saves the adapter if its loss, or the run's metric, is the best so far, and logs the evaluation. */
async function keepEvaluation(run: Running, { total, losses, answers }: Evaluated): Promise<void> {
  const { inputs, progress, facts } = run;
  const { state } = progress;
  const { step } = state;
  const record: EvalRecord = { step, ...total };
  const best = state.evals.every((earlier) => improves(record, earlier, inputs.options.metric));
  state.evals = [...state.evals, record];
  progress.saved = false;
  await withWayOn(run, async () => {
    if (best && isWriter(run)) await saveAdapter(join(inputs.options.output, BEST_FOLDER), trainedOf(run));
    const answered = answers.map((answer) => ({ step, ...answer }));
    await facts.send({ fact: "eval", record, best, losses, answers: answered });
  });
}

/** The run's model and factors as an evaluator, which computes each loss under the policy of its length. */
function evaluatorOf(run: Running): Evaluator {
  const { inputs, planned, loaded, signal, facts } = run;
  const { pictures, tokenizer } = inputs.data;
  const { plan, losses, answers } = planned;
  const { model, lora } = loaded;
  return {
    ...{ model, lora, policy: plan.policy, pictures, tokenizer, signal, sharers: sharersOf(run) },
    fitting: (source, tokens, body) => {
      const subject = `Evaluation: ${source}`;
      const otherwise = async ({ message }: OutOfMemoryError): Promise<undefined> => {
        const size = `${formatCount(tokens)} tokens`;
        facts.notice(
          `${subject} (${size}): ${message}, and no leaner policy is left. This evaluation skips the sample.`,
        );
        return undefined;
      };
      return fitting(run, { subject, tokens, ladder: losses!, otherwise }, body);
    },
    ...(answers && { hasRoom: answers.hasRoom }),
    onUnanswered: (source, { message }) => facts.notice(`no answer to ${namesOf([source])}: ${message}`),
  };
}

async function save(run: Running): Promise<void> {
  const { progress, facts, late } = run;
  const { output, keep_checkpoints } = run.inputs.options;
  await late.all();
  const folder = isWriter(run)
    ? await withWayOn(run, () => saveCheckpoint(output, progress.state, trainedOf(run)))
    : checkpointFolder(output, progress.state);
  progress.checkpoint = folder;
  progress.saved = true;
  run.clock.savedMs = run.clock.nowMs();
  if (!isWriter(run)) return;
  await pruneCheckpoints(output, keep_checkpoints).catch((cause) =>
    facts.notice(`an old checkpoint can't be removed, and stays: ${faultOf(cause)}`),
  );
  await facts.send({ fact: "checkpoint", step: progress.state.step, folder });
}

/** Tells why the run ends now, before its last step; undefined if it goes on. */
function earlyStop({ inputs, progress }: Running): { reason: "early_stop"; message: string } | undefined {
  const { early_stop, metric } = inputs.options;
  const message = earlyStopReason(progress.state.evals, early_stop, metric);
  return message === undefined ? undefined : { reason: "early_stop", message };
}

async function finish(run: Running): Promise<TrainResult & { ended: "finished" }> {
  const adapter = join(run.inputs.options.output, ADAPTER_FOLDER);
  await run.late.all();
  if (isWriter(run)) await withWayOn(run, () => saveAdapter(adapter, trainedOf(run)));
  return { ended: "finished", step: run.progress.state.step, adapter };
}

async function interrupt(run: Running): Promise<TrainResult & { ended: "interrupted" }> {
  const { progress } = run;
  await run.late.all();
  if (!progress.saved || progress.state.accumulated.microBatches > 0) await save(run);
  return { ended: "interrupted", step: progress.state.step, checkpoint: progress.checkpoint! };
}

function trainedOf({ inputs, loaded: { lora, optimizer } }: Pick<Run, "inputs" | "loaded">): Trained {
  return { lora, optimizer, baseModel: inputs.options.model };
}
