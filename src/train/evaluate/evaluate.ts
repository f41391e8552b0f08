/** Evaluates a model on samples: the loss of each, and its own answers beside the expected ones. */
import { describeSource } from "../../data/samples/badSamples.ts";
import { IGNORE, type SampleSource } from "../../data/samples/sample.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { createBatches, layoutBatch, type PictureLoader } from "../../data/stream/batches.ts";
import { fileOrder } from "../../data/stream/drawOrder.ts";
import type { Tokenizer } from "../../data/text/tokenizer.ts";
import { type Generated, generate } from "../../models/generation/generate.ts";
import { GREEDY } from "../../models/generation/sampling.ts";
import type { Lora } from "../../models/lora.ts";
import type { Model } from "../../models/weights.ts";
import { drive } from "../../step/driveSteps.ts";
import type { Policy } from "../../step/policy.ts";
import { inRound, meetRanks, needsOf } from "../../step/rounds.ts";
import { evalStep } from "../../step/step.ts";
import { OutOfMemoryError } from "../../torch/device.ts";
import { ALONE, type Peers } from "../../torch/peers/peers.ts";
import type { AnswerRecord, EvalRecord } from "../folder/runLog.ts";
import { type AnswerRequest, answerRequests, stopIdsOf } from "../planning/answerPlan.ts";
import { sharedOut } from "../ranks/shareOut.ts";
import { type Metrics, metricsOf, type Scores, scoresOf } from "./scores.ts";

/** A model to evaluate, with or without an adapter. */
export interface Evaluator {
  model: Model;
  lora: Lora | undefined;
  policy: Policy;
  pictures: PictureLoader;
  /** Undefined: answers are compared by their ids. */
  tokenizer: Tokenizer | undefined;
  signal?: AbortSignal | undefined;
  /** Ranks that share the rows of each sample for its loss. */
  sharers?: Peers | undefined;
  /** Chooses the policy of each sample's loss; without it, `policy` is used. */
  fitting?: Fitting;
  /**
   * Whether an answer fits in memory; an answer that does not counts as wrong. Without it, all answers are
   * tried.
   */
  hasRoom?: (sample: PreparedSample, request: AnswerRequest) => boolean;
  /**
   * Called for an answer that runs out of memory, which then counts as wrong. Without it, that is an error.
   */
  onUnanswered?: (source: SampleSource, cause: OutOfMemoryError) => void;
}

/**
 * Runs a body under a policy that fits so many tokens. Reports and returns undefined if none does; `subject`
 * names the body in the report.
 */
export type Fitting = <T>(
  subject: string,
  tokens: number,
  body: (policy: Policy) => Promise<T>,
) => Promise<T | undefined>;

export interface SampleLoss {
  /** Place in the list of samples. */
  index: number;
  /** Mean over the sample's labels. */
  loss: number;
  labelTokens: number;
}

export interface Answer {
  /** Place of its sample in the list; a dialogue may have several answers. */
  index: number;
  /** Index of its first id in the sample, and pictures before it. */
  start: number;
  pictures: number;
  expectedIds: number[];
  ids: number[];
  /** Whether it did not fit in memory. */
  isMissing: boolean;
  /** Scores by metric; without a tokenizer only exact_match, of the ids. */
  scores: Scores;
  /** Absent without a tokenizer. */
  text?: { expected: string; answer: string };
}

/** Totals over all samples. */
export type Evaluation = Omit<EvalRecord, "step">;

/** Computes the loss of each sample, in order, except those that do not fit. */
export async function* sampleLosses(
  samples: readonly PreparedSample[],
  { model, lora, policy, pictures, sharers, fitting = (_subject, _tokens, body) => body(policy) }: Evaluator,
): AsyncGenerator<SampleLoss> {
  const batches = createBatches({
    samples,
    sampler: fileOrder(samples.length),
    packing: { by: "samples", samples: 1 },
    draws: samples.length,
    pictures,
  });
  let index = 0;
  for await (const batch of batches) {
    const subject = batch.samples.map(describeSource).join(", ");
    const result = await fitting(subject, batch.inputIds.length, (chosen) =>
      inRound(model, needsOf(batch, chosen, model.config, { trains: false }), () =>
        drive(evalStep(model, lora, batch, chosen, { sharers })),
      ),
    );
    if (result) yield { index, loss: result.loss, labelTokens: result.labelTokens };
    index++;
  }
}

/** Averages over the labels of all samples: a sample with a long answer counts for more. */
export function totalLoss(losses: readonly Omit<SampleLoss, "index">[]): number {
  const labels = sum(losses.map(({ labelTokens }) => labelTokens));
  return sum(losses.map(({ loss, labelTokens }) => loss * labelTokens)) / labels;
}

/**
 * Answers every question of each sample greedily. A later question of a dialogue sees the expected answers
 * before it.
 */
export async function* sampleAnswers(
  samples: readonly PreparedSample[],
  evaluator: Evaluator,
): AsyncGenerator<Answer> {
  for (const [index, sample] of samples.entries()) {
    for (const request of answerRequests(sample, stopIdsOf(evaluator.tokenizer, evaluator.model.config))) {
      const { start, pictures } = request;
      yield { index, start, pictures, ...(await answer(sample, request, evaluator)) };
    }
  }
}

/** An evaluation with what it is made of. */
export interface Evaluated {
  total: Evaluation;
  losses: { sample: SampleSource; loss: number; labelTokens: number }[];
  answers: Omit<AnswerRecord, "step">[];
}

/**
 * Evaluates samples and returns the totals, or the first sample whose loss is NaN or Infinity. Returns
 * undefined if the signal came before the end, or if no sample fits.
 */
export async function evaluate(
  samples: readonly PreparedSample[],
  evaluator: Evaluator,
): Promise<Evaluation | { notFinite: SampleSource } | undefined> {
  const evaluated = await evaluateInFull(samples, evaluator);
  if (evaluated === "interrupted") return undefined;
  return evaluated && "total" in evaluated ? evaluated.total : evaluated;
}

/**
 * Evaluates as evaluate() does, and also returns each loss and each answer. Ranks share out the samples, and
 * all get the results of all. "interrupted": the signal of a rank came before the end.
 */
export async function evaluateInFull(
  samples: readonly PreparedSample[],
  evaluator: Evaluator,
  peers: Peers = ALONE,
): Promise<Evaluated | { notFinite: SampleSource } | "interrupted" | undefined> {
  const own = sharedOut(
    samples.map(({ tokens }) => tokens),
    peers.count,
  )[peers.rank]!;
  const ownSamples = own.map((index) => samples[index]!);
  const ofAll = <T extends { index: number }>(key: string, values: AsyncIterable<T>) =>
    toldOfAll(peers, key, placed(values, own), evaluator);
  const losses = evaluator.sharers
    ? await toldOfFirst(peers, upToNotFinite(sampleLosses(samples, evaluator)), evaluator)
    : await ofAll("losses", upToNotFinite(sampleLosses(ownSamples, evaluator)));
  if (losses === "interrupted") return losses;
  const wrong = losses.find(({ loss }) => loss === null || !Number.isFinite(loss)); // JSON has null for NaN
  if (wrong) return { notFinite: samples[wrong.index]!.source };
  if (losses.length === 0) return undefined;
  const answers = await ofAll("answers", sampleAnswers(ownSamples, evaluator));
  if (answers === "interrupted") return answers;
  return {
    total: totalOf(losses, answers, samples.length),
    losses: losses.map(({ index, ...loss }) => ({ sample: samples[index]!.source, ...loss })),
    answers: answers.map((answered) => answerRecord(answered, samples[answered.index]!, evaluator)),
  };
}

/** Gives values the places of their samples among all. */
async function* placed<T extends { index: number }>(
  values: AsyncIterable<T>,
  places: readonly number[],
): AsyncGenerator<T> {
  for await (const value of values) yield { ...value, index: places[value.index]! };
}

/** Ends with the first loss that is NaN or Infinity. */
async function* upToNotFinite(losses: AsyncIterable<SampleLoss>): AsyncGenerator<SampleLoss> {
  for await (const sample of losses) {
    yield sample;
    if (!Number.isFinite(sample.loss)) return;
  }
}

/** Collects this rank's values, and returns those of all ranks in the order of samples. */
async function toldOfAll<T extends { index: number }>(
  peers: Peers,
  key: string,
  values: AsyncIterable<T>,
  { signal, model }: Evaluator,
): Promise<T[] | "interrupted"> {
  const own: T[] = [];
  for await (const value of values) {
    if (signal?.aborted) break;
    own.push(value);
  }
  await meetRanks(model);
  const isInterrupted = signal?.aborted ?? false;
  const told = await peers.tell(`${key} of an evaluation`, { isInterrupted, values: own as never });
  const all = told as unknown as { isInterrupted: boolean; values: T[] }[];
  if (all.some((each) => each.isInterrupted)) return "interrupted";
  return all.flatMap((each) => each.values).sort((one, other) => one.index - other.index);
}

/** Collects values that ranks compute together, so that none may stop alone. */
async function toldOfFirst<T>(
  peers: Peers,
  values: AsyncIterable<T>,
  { signal }: Evaluator,
): Promise<T[] | "interrupted"> {
  const all: T[] = [];
  for await (const value of values) all.push(value);
  const told = await peers.tell("end of an evaluation's losses", signal?.aborted ?? false);
  return told.some((isInterrupted) => isInterrupted) ? "interrupted" : all;
}

function totalOf(losses: readonly SampleLoss[], answers: readonly Answer[], samples: number): Evaluation {
  const unevaluated = samples - losses.length;
  const unanswered = sum(answers.map(({ isMissing }) => (isMissing ? 1 : 0)));
  return {
    loss: totalLoss(losses),
    samples: losses.length,
    labelTokens: sum(losses.map(({ labelTokens }) => labelTokens)),
    ...namedMetrics(metricsOf(answers.map(({ scores }) => scores))),
    ...(unanswered > 0 && { unanswered }),
    ...(unevaluated > 0 && { unevaluated }),
  };
}

/** Returns metrics as records have them: all by name, and two with fields of their own as in older runs. */
export function namedMetrics(metrics: Metrics): { exactMatch: number; anls?: number; metrics: Metrics } {
  const { exact_match: exactMatch = Number.NaN, anls } = metrics;
  return { exactMatch, ...(anls !== undefined && { anls }), metrics };
}

function answerRecord(
  { start, pictures, isMissing, scores, text }: Answer,
  { source, inputIds, images }: PreparedSample,
  { tokenizer }: Evaluator,
): Omit<AnswerRecord, "step"> {
  return {
    sample: source,
    pictures: images.slice(0, pictures).map(({ path }) => path),
    ...(tokenizer && { question: tokenizer.dialogue.questionBefore(inputIds, start) }),
    ...text,
    isMissing,
    ...namedMetrics(metricsOf([scores])),
  };
}

async function answer(
  sample: PreparedSample,
  request: AnswerRequest,
  evaluator: Evaluator,
): Promise<Omit<Answer, "index" | "start" | "pictures">> {
  const { expectedIds } = request;
  const hasRoom = evaluator.hasRoom?.(sample, request) ?? true;
  const generated = hasRoom ? await answerIn(sample, request, evaluator) : undefined;
  const ids = generated?.ids ?? [];
  const isMissing = generated === undefined;
  const { scores, ...text } = scored(expectedIds, ids, evaluator.tokenizer);
  const exact_match = isMissing ? { part: 0, whole: 1 } : scores.exact_match!;
  return { expectedIds, ids, isMissing, scores: { ...scores, exact_match }, ...text };
}

/** Generates an answer; undefined if it does not fit in memory and that is no error. */
async function answerIn(
  sample: PreparedSample,
  { start, pictures: count, maxNewTokens }: AnswerRequest,
  { model, lora, policy, pictures, tokenizer, signal, onUnanswered }: Evaluator,
): Promise<Generated | undefined> {
  const inputIds = sample.inputIds.slice(0, start);
  const images = await Promise.all(
    sample.images.slice(0, count).map(({ path, limit }) => pictures.load(path, limit)),
  );
  const labels = new Int32Array(start).fill(IGNORE);
  const prompt = layoutBatch([{ sample: { ...sample, inputIds, labels }, images }]);
  const needs = { pictures: images.length > 0, answerTokens: maxNewTokens };
  return await inRound(model, needs, () =>
    generate(model, lora, prompt, {
      sampling: GREEDY,
      maxNewTokens,
      stopIds: stopIdsOf(tokenizer, model.config),
      visionBatch: policy.visionBatchTiles,
      ...(signal && { signal }),
    }),
  ).catch((thrown) => {
    if (!(thrown instanceof OutOfMemoryError && onUnanswered)) throw thrown;
    onUnanswered(sample.source, thrown);
    return undefined;
  });
}

function scored(
  expectedIds: number[],
  ids: number[],
  tokenizer: Tokenizer | undefined,
): Pick<Answer, "scores" | "text"> {
  if (!tokenizer)
    return { scores: { exact_match: { part: expectedIds.join() === ids.join() ? 1 : 0, whole: 1 } } };
  const textOf = (each: number[]): string => tokenizer.decode(each, { skipSpecial: true }).trim();
  const [expected, answer] = [textOf(expectedIds), textOf(ids)];
  return { scores: scoresOf(answer, expected), text: { expected, answer } };
}

function sum(values: readonly number[]): number {
  return values.reduce((total, value) => total + value, 0);
}
