/** Plans the answers of an evaluation before anything is loaded: which of them fit in memory. */

import type { EncodedSample } from "../../data/samples/dialogue.ts";
import { IGNORE, IMAGE_SLOT } from "../../data/samples/sample.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import type { Tokenizer } from "../../data/text/tokenizer.ts";
import type { ModelConfig } from "../../models/family.ts";
import { CACHE_GROWTH_TOKENS } from "../../models/generation/kvCache.ts";
import type { AnswerShape } from "../../plan/dryRun/answerRun.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import { mostOfBoth, type RowCounts, rowCountsOf, shapeOfMost } from "../data/rowCounts.ts";

/** A question of a sample: what comes before the answer is the prompt. */
export interface AnswerRequest {
  /** Index of the answer's first id in the sample. */
  start: number;
  /** Pictures of the prompt: the first ones of the sample. */
  pictures: number;
  expectedIds: number[];
  maxNewTokens: number;
}

/** Returns the ids that end an answer. */
export function stopIdsOf(
  tokenizer: Tokenizer | undefined,
  { eosIds }: Pick<ModelConfig, "eosIds">,
): number[] {
  return tokenizer ? [...tokenizer.dialogue.stopIds] : [...eosIds];
}

/** Makes a request for each run of labels. */
export function answerRequests(
  { inputIds, labels }: EncodedSample,
  stopIds: readonly number[],
): AnswerRequest[] {
  return labelledSpans(labels).map(({ start, end }) => {
    const labelled = [...inputIds.subarray(start, end)];
    const expectedIds = labelled.slice(0, stopAt(labelled, stopIds));
    return {
      start,
      pictures: inputIds.subarray(0, start).filter((id) => id === IMAGE_SLOT).length,
      expectedIds,
      maxNewTokens: 2 * expectedIds.length + 1, // twice as long has no similarity that counts
    };
  });
}

export interface PlannedAnswer {
  sample: PreparedSample;
  run: DryRun;
}

export interface AnswersPlan {
  /** Answers of the evaluation. */
  count: number;
  /** The answer that needs the most memory among those that fit. */
  most: PlannedAnswer | undefined;
  /** Answers that do not fit, and the smallest of them. */
  left: number;
  least: PlannedAnswer | undefined;
  hasRoom(sample: PreparedSample, request: AnswerRequest): boolean;
}

interface Asked {
  sample: PreparedSample;
  request: AnswerRequest;
  prompt: RowCounts;
}

/** Finds the answers that fit; `tryShape` plans one. */
export function planAnswers(
  samples: readonly PreparedSample[],
  stopIds: readonly number[],
  tryShape: (shape: AnswerShape) => { fits: boolean; run: DryRun },
): AnswersPlan {
  const asked = samples
    .flatMap((sample) => answerRequests(sample, stopIds).map((request) => askedOf(sample, request)))
    .sort((one, other) => tokensOf(one) - tokensOf(other));
  const shapes = growing(asked);
  let [fitting, tooMany] = [0, asked.length + 1];
  for (let count = asked.length; count > fitting; count = Math.floor((fitting + tooMany) / 2)) {
    if (tryShape(shapes[count - 1]!).fits) fitting = count;
    else tooMany = count;
  }
  const plannedAt = (index: number): PlannedAnswer | undefined =>
    asked[index] && { sample: asked[index].sample, run: tryShape(shapes[index]!).run };
  const keyOf = ({ source }: PreparedSample, { start }: AnswerRequest): string =>
    JSON.stringify([source, start]);
  const left = new Set(asked.slice(fitting).map(({ sample, request }) => keyOf(sample, request)));
  return {
    count: asked.length,
    most: plannedAt(fitting - 1),
    left: asked.length - fitting,
    least: plannedAt(fitting),
    hasRoom: (sample, request) => !left.has(keyOf(sample, request)),
  };
}

function askedOf(sample: PreparedSample, request: AnswerRequest): Asked {
  const { inputIds, labels, grids } = sample;
  const [ids, ofIds] = [inputIds, labels].map((all) => all.subarray(0, request.start));
  return { sample, request, prompt: rowCountsOf({ inputIds: ids!, labels: ofIds!, grids }) };
}

function tokensOf({ prompt, request }: Asked): number {
  return prompt.tokens + request.maxNewTokens;
}

/**
 * Returns for each answer a shape that needs as much memory as that answer and all before it, which have
 * fewer tokens: the longest prompt, and as much room after it as the cache of the last of them takes.
 */
function growing(asked: readonly Asked[]): AnswerShape[] {
  let [promptTokens, newTokens, cacheTokens] = [1, 1, 1];
  let most: Omit<RowCounts, "tokens"> | undefined;
  return asked.map(({ prompt, request: { maxNewTokens } }) => {
    promptTokens = Math.max(promptTokens, prompt.tokens);
    newTokens = Math.max(newTokens, maxNewTokens);
    most = most ? mostOfBoth(most, prompt) : prompt;
    // a cache has room for so many at first; one more makes it grow, and the last token is not written to it
    const atOnce = Math.min(newTokens, CACHE_GROWTH_TOKENS + 2);
    const grown = Math.ceil(maxNewTokens / CACHE_GROWTH_TOKENS) * CACHE_GROWTH_TOKENS;
    cacheTokens = Math.max(cacheTokens, prompt.tokens + grown);
    return {
      prompt: shapeOfMost(most, promptTokens),
      maxNewTokens: Math.max(atOnce, Math.min(newTokens, cacheTokens - promptTokens)),
    };
  });
}

function labelledSpans(labels: Int32Array): { start: number; end: number }[] {
  const spans: { start: number; end: number }[] = [];
  for (const [row, label] of labels.entries()) {
    if (label === IGNORE) continue;
    const last = spans.at(-1);
    if (last?.end === row) last.end = row + 1;
    else spans.push({ start: row, end: row + 1 });
  }
  return spans;
}

/** Returns the index of the first stop id, or the length. */
function stopAt(ids: readonly number[], stopIds: readonly number[]): number {
  const index = ids.findIndex((id) => stopIds.includes(id));
  return index < 0 ? ids.length : index;
}
