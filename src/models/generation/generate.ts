/**
 * Generation with a KV cache. The prompt, text and pictures, goes through the layers as in training and
 * leaves its keys and values in the cache; then one token at a time. LoRA acts throughout. PLoRA's branch
 * acts on the prompt's pictures or, if it is folded, on everything else. Control returns to the event loop
 * between layers of the prompt, batches of tiles and tokens, with no scope open.
 */
import { setImmediate } from "node:timers/promises";
import type { MicroBatch } from "../../data/stream/batches.ts";
import { randomAt } from "../../data/stream/random.ts";
import { UserError } from "../../errors.ts";
import { rotate_ } from "../../nn/attention/attention.ts";
import { normalizePacked_ } from "../../nn/attention/headNorms.ts";
import { type Positions, ropeTables } from "../../nn/attention/rope.ts";
import { frozenProduct } from "../../nn/frozen/frozen.ts";
import { addLinear_, type RowInfo } from "../../nn/linear.ts";
import { rmsNorm } from "../../nn/norm.ts";
import { rowsOf } from "../../nn/rows.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import type { Sequence } from "../attentionGroups.ts";
import { attentionForward_, type KeptAttention, type Layer, mlpForward_ } from "../decoder.ts";
import { addDeepstack_, type Deepstack, emptyDeepstack, featuresOf } from "../deepstack.ts";
import { familyOf, pictureFormOf, positionsOf, seenBefore } from "../families.ts";
import type { ModelConfig } from "../family.ts";
import { embedText, placeImage_ } from "../inputRows.ts";
import { joinLayer } from "../join.ts";
import type { Lora } from "../lora.ts";
import { fetchPart, partOnDevice } from "../parts.ts";
import { positionAfter, positionOfText } from "../positions.ts";
import { projectRows } from "../projection.ts";
import { ploraRowsOf } from "../tiles.ts";
import { USUAL_MLP_TILE_TOKENS, USUAL_VISION_BATCH } from "../usualSizes.ts";
import type { Model } from "../weights.ts";
import { CACHE_GROWTH_TOKENS, type KeysAndValues, KvCache } from "./kvCache.ts";
import { chooseToken, type Sampling } from "./sampling.ts";

/** Token ids, the rows among them that pictures take, and the pictures. */
export type Prompt = Pick<MicroBatch, "inputIds" | "imageSlices" | "images" | "branchRows">;

export interface GenerateOptions {
  sampling: Sampling;
  maxNewTokens: number;
  /** Ids that end the answer and are not part of it. Without any, the answer has maxNewTokens. */
  stopIds: readonly number[];
  /** Tiles that the vision tower encodes at a time. */
  visionBatch?: number | undefined;
  /** Called with each id as it comes; the next one waits for its promise. */
  onToken?: ((id: number) => unknown) | undefined;
  /** Ends the answer early. */
  signal?: AbortSignal | undefined;
}

export interface Generated {
  ids: number[];
  /** A stop id came, maxNewTokens or the model's last position was reached, or the signal was given. */
  finish: "stop" | "length" | "aborted";
}

/** The work between two points where control returns to the event loop. */
export type GenerateStep =
  | { phase: "picture"; done: number; total: number }
  | { phase: "prompt"; done: number; total: number }
  | { phase: "answer"; id: number };

/**
 * Generates the answer to a prompt. Throws UserError if the prompt is empty or fills all of the model's
 * positions.
 */
export async function generate(
  model: Model,
  lora: Lora | undefined,
  prompt: Prompt,
  options: GenerateOptions,
): Promise<Generated> {
  const ids: number[] = [];
  const steps = generateSteps(model, lora, prompt, options);
  try {
    for (let step = steps.next(); ; step = steps.next()) {
      if (step.done) return { ids, finish: step.value };
      if (step.value.phase === "answer") {
        ids.push(step.value.id);
        await options.onToken?.(step.value.id);
      }
      await setImmediate();
      if (options.signal?.aborted) return { ids, finish: "aborted" };
    }
  } finally {
    steps.return("aborted"); // frees the cache
  }
}

/** Generates an answer step by step; the caller drives it. Returning early frees everything. */
export function* generateSteps(
  model: Model,
  lora: Lora | undefined,
  prompt: Prompt,
  { sampling, maxNewTokens, stopIds, visionBatch = USUAL_VISION_BATCH }: GenerateOptions,
): Generator<GenerateStep, Generated["finish"]> {
  const room = roomTokens(model, prompt, maxNewTokens);
  using cache = newCache(model, prompt, maxNewTokens);
  const shift = shiftAfter(model, prompt);
  const seen = new Set(seenBefore(model.config, prompt.inputIds, prompt.imageSlices));
  let logits = yield* readPrompt(model, lora, prompt, cache, visionBatch);
  for (let count = 0; count < room; count++) {
    const id = chooseToken(logits, seen, sampling, randomAt(sampling.seed, 0, count));
    if (stopIds.includes(id)) return "stop";
    seen.add(id);
    yield { phase: "answer", id };
    if (count + 1 < room) logits = nextLogits(model, lora, id, cache, shift);
  }
  return "length";
}

/**
 * Runs the longest possible answer on a model on meta: the prompt, and the token for which the cache is
 * largest.
 */
export function generateOnMeta(
  model: Model,
  lora: Lora | undefined,
  prompt: Prompt,
  { maxNewTokens, visionBatch = USUAL_VISION_BATCH }: Pick<GenerateOptions, "maxNewTokens" | "visionBatch">,
): void {
  using cache = newCache(model, prompt, maxNewTokens);
  for (const _ of readPrompt(model, lora, prompt, cache, visionBatch));
  const lastToken = prompt.inputIds.length + roomTokens(model, prompt, maxNewTokens) - 1;
  cache.skipTo(lastToken - 1);
  if (lastToken === prompt.inputIds.length) return;
  nextLogits(model, lora, 0, cache, shiftAfter(model, prompt));
}

function roomTokens({ config }: Model, prompt: Prompt, maxNewTokens: number): number {
  return Math.min(maxNewTokens, freePositions(config, prompt));
}

function newCache(model: Model, prompt: Prompt, maxNewTokens: number): KvCache {
  const room = roomTokens(model, prompt, maxNewTokens);
  const capacityTokens = prompt.inputIds.length + Math.min(room, CACHE_GROWTH_TOKENS);
  return new KvCache(model.config, { ...model, capacityTokens });
}

/** Returns the positions that the prompt leaves to the answer. */
function freePositions(config: ModelConfig, { inputIds }: Prompt): number {
  const { maxPositions } = config;
  if (inputIds.length === 0) {
    throw new UserError("The prompt is empty.", {
      fix: "Begin the prompt with a token, such as <s>.",
    });
  }
  if (inputIds.length < maxPositions) return maxPositions - inputIds.length;
  throw new UserError(
    `The prompt has ${inputIds.length} tokens; the model has room for ${maxPositions}, with the answer.`,
    {
      fix: `Pass ${pictureFormOf(config).limit.lower}, or shorten the text.`,
    },
  );
}

/** Fills the cache with the prompt. Returns the logits, (V), of the token after it. */
function* readPrompt(
  model: Model,
  lora: Lora | undefined,
  prompt: Prompt,
  cache: KvCache,
  visionBatch: number,
): Generator<GenerateStep, Float32Array> {
  const { config } = model;
  const promptTokens = prompt.inputIds.length;
  const positions = positionsOfPrompt(model, prompt);
  using hidden = keep(embedText(model, prompt.inputIds)); // (T, C)
  const deepstack = emptyDeepstack(model, prompt.imageSlices);
  using features = deepstack?.values;
  if (prompt.imageSlices.length > 0) yield* placePictures(model, prompt, { hidden, deepstack }, visionBatch);
  for (let index = 0; index < config.layers; index++) {
    scope(() => {
      const layer = joinLayer(model, lora, index);
      const sequence = sequenceOf(positions, promptTokens, model, prompt);
      scope(() => fillCache(cache, index, attentionForward_(hidden, layer, sequence, { keeps: true }) ?? []));
      mlpForward_(hidden, layer, sequence);
      addDeepstack_(hidden, deepstack, index);
    });
    if (index + 1 === deepstack?.values.shape[0]) features?.dispose();
    yield { phase: "prompt", done: index + 1, total: config.layers };
  }
  cache.advance(promptTokens);
  return headLogits(model, hidden, promptTokens - 1);
}

/** Writes the image tokens into their rows of hidden, (T, C), and the features for the first layers. */
function* placePictures(
  model: Model,
  { imageSlices, images }: Prompt,
  { hidden, deepstack }: { hidden: Tensor; deepstack: Deepstack | undefined },
  visionBatch: number,
): Generator<GenerateStep, void> {
  using vision = fetchPart(model, "vision");
  const ready = { ...model, vision: vision.wait() };
  for (const [at, { start, end, image }] of imageSlices.entries()) {
    using rows = keep(rowsOf(hidden, { start, end })); // (imageTokens, C)
    const features = deepstack ? keep(scope(() => featuresOf(deepstack, at))) : [];
    const batches = placeImage_(rows, ready, images[image]!, visionBatch, { deepstack: features });
    try {
      for (const progress of batches) yield { phase: "picture", ...progress };
    } finally {
      dispose(features);
    }
  }
}

function positionsOfPrompt({ config }: Model, { inputIds, imageSlices, images }: Prompt): Positions {
  return positionsOf(config, { sampleTokens: [inputIds.length], imageSlices, images });
}

/**
 * Returns how far the answer's positions are beyond its places in the sequence: 0 unless pictures take fewer
 * positions than rows.
 */
function shiftAfter(model: Model, prompt: Prompt): number {
  return positionAfter(positionsOfPrompt(model, prompt)) - prompt.inputIds.length;
}

/** Returns tokens at these positions as the layers see them: one sample, one group of all kv heads. */
function sequenceOf(
  positions: Positions,
  tokens: number,
  model: Model,
  { imageSlices, branchRows }: Pick<Prompt, "imageSlices" | "branchRows">,
): Sequence {
  const { config, dtype, device } = model;
  const { heads, kvHeads, headDim: D } = config;
  return {
    rope: ropeTables(positions, config, { dtype, device }),
    shape: { Q: heads / kvHeads, D, samples: [{ start: 0, end: tokens }] },
    ploraRows: branchRows ?? ploraRowsOf(model, imageSlices, tokens),
    kvHeads,
    qkv: (kvHead) => familyOf(config).qkv(config, kvHead),
    headGroups: 1,
    attentionInput: "kept",
    plora: "apart", // the least memory: no policy says how much there is
    mlpTileTokens: USUAL_MLP_TILE_TOKENS,
  };
}

/**
 * Writes keys and values that attention has rotated behind those of the layer. Groups come in the order of
 * their kv heads.
 */
function fillCache(cache: KvCache, layer: number, groups: KeptAttention): void {
  let firstHead = 0;
  for (const { state } of groups) {
    const [packed] = state.rotated;
    cache.write(layer, firstHead, keysAndValues(packed));
    firstHead += packed.shape[1]!;
  }
}

/** Adds one token. Returns the logits, (V), of the token after it. */
function nextLogits(
  model: Model,
  lora: Lora | undefined,
  id: number,
  cache: KvCache,
  shift: number,
): Float32Array {
  const { axes } = positionsOf(model.config, { sampleTokens: [1], imageSlices: [], images: [] });
  cache.reserve(1);
  return scope(() => {
    const hidden = embedText(model, Int32Array.of(id)); // (1, C)
    const position = positionOfText(cache.tokens + shift, { axes });
    const sequence = sequenceOf(position, 1, model, { imageSlices: [] });
    for (let index = 0; index < model.config.layers; index++) {
      scope(() => {
        const layer = joinLayer(model, lora, index);
        addCachedAttention_(hidden, layer, sequence, cache, index);
        mlpForward_(hidden, layer, sequence);
      });
    }
    cache.advance(1);
    return headLogits(model, hidden, 0);
  });
}

/**
 * Adds attention of one token, to itself and all before it, to hidden, (1, C). Query heads are grouped by kv
 * head.
 */
function addCachedAttention_(
  hidden: Tensor,
  layer: Layer,
  sequence: Sequence,
  cache: KvCache,
  index: number,
): void {
  const { rope, shape, ploraRows } = sequence;
  const { Q, D } = shape;
  const info: RowInfo = { place: 0, ploraRows };
  scope(() => {
    const x = rmsNorm(hidden, layer.attentionNorm);
    const packed = projectRows(x, layer.qkv, sequence, info).view([1, -1, Q + 2, D]); // (1, G, Q+2, D)
    normalizePacked_(packed, layer.headNorms);
    rotate_(packed.narrow(2, 0, Q + 1), rope);
    cache.write(index, 0, keysAndValues(packed));
    const { keys, values } = cache.read(index, 1); // (G, S, D) each, S tokens so far
    const query = packed.select(0, 0).narrow(1, 0, Q); // (G, Q, D)
    const scores = query.bmm(keys.transpose(1, 2)).to({ dtype: "float32" }); // (G, Q, S)
    const shares = scores
      .mul_(D ** -0.5)
      .softmax(-1)
      .to({ dtype: hidden.dtype });
    addLinear_(hidden, shares.bmm(values).view([1, -1]), layer.output, info); // (1, H * D)
  });
}

/** Returns views of the packed heads, (t, G, Q+2, D). */
function keysAndValues(packed: Tensor): KeysAndValues {
  const last = packed.shape[2]! - 1;
  return { keys: packed.select(2, last - 1), values: packed.select(2, last) }; // (t, G, D) each
}

/** Returns the logits, (V), of the token after a row. hidden: (T, C), before the final norm. */
function headLogits(model: Model, hidden: Tensor, row: number): Float32Array {
  const { config, norm, device } = model;
  return scope(() => {
    const states = rmsNorm(rowsOf(hidden, { start: row, end: row + 1 }), {
      weight: norm,
      eps: config.rmsEps,
    }); // (1, C)
    const logits = frozenProduct(states, partOnDevice(model, "head")).to({ dtype: "float32" });
    return device === "meta" ? new Float32Array() : (logits.toArray() as Float32Array);
  });
}
