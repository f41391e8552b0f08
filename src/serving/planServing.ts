/**
 * Plans the memory of serving: the base model, adapters, the pool of keys and values, the pool of features,
 * and the largest pass beside an encoding picture. The passes themselves run on meta.
 */

import { partsOfFeatures } from "../models/deepstack.ts";
import { pictureFormOf, positionsOf } from "../models/families.ts";
import type { ModelConfig } from "../models/family.ts";
import { placeImage_ } from "../models/inputRows.ts";
import { fetchPart } from "../models/parts.ts";
import type { Places } from "../models/places.ts";
import { positionsAt } from "../models/positions.ts";
import type { Model } from "../models/weights.ts";
import type { Positions } from "../nn/attention/rope.ts";
import { rowCount } from "../nn/rows.ts";
import type { Configuration } from "../plan/dryRun/configuration.ts";
import { type DryRun, observe, type Recorder } from "../plan/dryRun/dryRun.ts";
import { type CommonParts, PartsOfSearch } from "../plan/dryRun/sharedParts.ts";
import { largestThatFits } from "../plan/largestThatFits.ts";
import { type Limits, type PlannedModel, shortage } from "../plan/planner.ts";
import { layerSource } from "../step/layerWeights.ts";
import { DEFAULT_POLICY, type Policy } from "../step/policy.ts";
import { dispose, keep, scope } from "../torch/tensor.ts";
import type { Trace } from "../torch/trace.ts";
import { disposeAdapter, plannedAdapter, type ServedAdapter } from "./adapters.ts";
import { FeaturePool } from "./memory/featurePool.ts";
import { type Chain, KvPool } from "./memory/kvPool.ts";
import { runPass, type Slice } from "./pass/pass.ts";

/** How a model is held and computed for serving. */
export interface ServingWay {
  name: "resident" | "streamed";
  places: Places;
  /** Streamed layers that are fetched ahead. */
  aheadLayers: number;
  /** Rows of prompts in a pass. */
  chunkTokens: number;
  visionBatchTiles: number;
}

const RESIDENT: Places = { layers: "device", embeddings: "device", head: "device", vision: "device" };
const STREAMED: Places = { layers: "host", embeddings: "host", head: "host", vision: "host" };

/** Ways from the fastest to the one that needs the least memory. */
export const SERVING_WAYS: readonly ServingWay[] = [
  { name: "resident", places: RESIDENT, aheadLayers: 1, chunkTokens: 512, visionBatchTiles: 4 },
  {
    ...{ name: "resident", places: { ...RESIDENT, vision: "host", embeddings: "host" } },
    ...{ aheadLayers: 1, chunkTokens: 256, visionBatchTiles: 1 },
  },
  { name: "streamed", places: STREAMED, aheadLayers: 1, chunkTokens: 512, visionBatchTiles: 4 },
  { name: "streamed", places: STREAMED, aheadLayers: 0, chunkTokens: 128, visionBatchTiles: 1 },
];

export const DEFAULT_MAX_SEQUENCES = 32;

/** Sizes that requests may have, and what there is room for besides. */
export interface ServingShape {
  /** Sequences in a pass. */
  maxSequences: number;
  /** Tokens of the longest sequence. */
  maxTokens: number;
  /** Tokens of the pool of keys and values. */
  kvTokens: number;
  maxAdapters: number;
}

/** Makes the largest adapter without data; the caller disposes it. */
export type MakeAdapter = (model: Model) => ServedAdapter;

/** A plan that fits, or the best of those that do not. */
export interface ServingPlan {
  way: ServingWay;
  shape: ServingShape;
  run: DryRun;
  /** Bytes that all adapters together may take. */
  adapterBytes: number;
}

/** Returns the rows of the pool of features: the pictures of the longest sequence have room. */
export function featureRows({ maxTokens }: ServingShape): number {
  return maxTokens;
}

/** Returns a policy that loads the base model in this way. */
function policyOf({ name, places, aheadLayers, visionBatchTiles }: ServingWay): Policy {
  const { embeddings, head, vision } = places;
  const weights = { source: name, aheadLayers };
  return { ...DEFAULT_POLICY, plora: "apart", weights, embeddings, head, vision, visionBatchTiles };
}

/** Plans one shape in one way. */
export function planShape(
  planned: PlannedModel,
  way: ServingWay,
  shape: ServingShape,
  parts: CommonParts,
  makeAdapter: MakeAdapter = (model) => plannedAdapter(model),
): ServingPlan {
  const batch = { samples: 1, sampleTokens: way.chunkTokens, pictures: [], labelTokens: 1 };
  const lora = { rank: 1, dropout: 0, targets: "." }; // adapters are made apart: there is nothing to train
  const configuration: Configuration = { ...planned, lora, batch, policy: policyOf(way) };
  let adapterBytes = 0;
  const run = observe(configuration, (recorder) => {
    const { model, making, mappedBytes } = parts.model(configuration, recorder.take);
    const adapters = Array.from({ length: shape.maxAdapters }, () => makeAdapter(model));
    adapterBytes = adapters.reduce((sum, { bytes }) => sum + bytes, 0);
    serveOnMeta(model, making, way, shape, recorder, adapters);
    for (const adapter of adapters) disposeAdapter(adapter);
    return { mappedBytes };
  });
  return { way, shape, run, adapterBytes };
}

function serveOnMeta(
  model: Model,
  making: Trace,
  way: ServingWay,
  shape: ServingShape,
  { take, end }: Recorder,
  adapters: readonly ServedAdapter[],
): void {
  using pool = new KvPool(model, shape.kvTokens);
  using features = new FeaturePool(model, featureRows(shape));
  end("start", [making, take()]);
  using source = layerSource(model, way.aheadLayers);
  const pass = (): void => {
    const slices = largestSlices(shape, way, features, adapters[0], model.config);
    for (const _ of runPass({ model, source, pool }, slices));
    for (const { features: held } of slices) for (const { values } of held) values.dispose();
  };
  encodeBeside(model, way, shape, features, pass);
  end("serve");
}

/** Encodes the largest picture, with a pass between its first batches of tiles. */
function encodeBeside(
  model: Model,
  { visionBatchTiles }: ServingWay,
  shape: ServingShape,
  features: FeaturePool,
  pass: () => void,
): void {
  const form = pictureFormOf(model.config);
  const most = form.ofUnits(2 * visionBatchTiles + 1); // more batches need no more memory
  const grid = form.within(Math.min(featureRows(shape), most.tokens));
  if (!grid) {
    pass();
    return;
  }
  using vision = fetchPart(model, "vision");
  const ready = { ...model, vision: vision.wait() };
  using rows = keep(scope(() => features.rowsAt({ start: 0, end: grid.tokens })));
  const [tokens, ...deepstack] = partsOfFeatures(rows, model);
  const steps = placeImage_(tokens, ready, grid, visionBatchTiles, { deepstack });
  steps.next();
  pass();
  for (const _ of steps);
  dispose([tokens, deepstack]);
}

/** Returns the slices of the largest pass: an answer of each sequence, and a prompt's rows of pictures. */
function largestSlices(
  { maxSequences, maxTokens }: ServingShape,
  { chunkTokens }: ServingWay,
  features: FeaturePool,
  adapter: ServedAdapter | undefined,
  config: ModelConfig,
): Slice[] {
  const text = positionsOf(config, { sampleTokens: [1], imageSlices: [], images: [] });
  const from = (start: number, count: number): Positions =>
    positionsAt({ prompt: text, tokens: 1 }, { start, end: start + count });
  const last = maxTokens - 1;
  const whole = { slots: { start: 0, end: Math.max(1, last) }, users: 1 };
  const chainTo = (tokens: number): Chain => [
    { segment: whole, tokens: Math.min(tokens, rowCount(whole.slots)) },
    { segment: { slots: { start: last, end: maxTokens }, users: 1 }, tokens: 1 },
  ];
  const rows = Math.min(chunkTokens, maxTokens);
  const common = { chain: chainTo(last), adapter, asksLogits: true };
  const answers = Array.from({ length: maxSequences }, () => ({
    ...{ ...common, start: last, ids: new Int32Array(1), positions: from(last, 1), features: [] },
  }));
  const values = keep(scope(() => features.rowsAt({ start: 0, end: rows })));
  const prompt = {
    ...{
      ...common,
      start: maxTokens - rows,
      ids: new Int32Array(rows),
      positions: from(maxTokens - rows, rows),
    },
    features: [{ rows: { start: 0, end: rows }, values }],
  };
  return rows > 1 ? [...answers, prompt] : answers;
}

/** Tokens of a usual request: a picture of 3 x 3 tiles, a question and an answer. */
const USUAL_TOKENS = 2048;
/** A pool of fewer tokens is of no use. */
const LEAST_TOKENS = 16;

export interface ServingAsk {
  maxSequences: number;
  /** Tokens of the longest request with its answer. */
  maxTokens: number;
  maxAdapters: number;
  ways: readonly ServingWay[];
}

/**
 * Finds the first way that has room for a usual request, or else the one with the most room, and its largest
 * pool. Undefined if no way fits at all.
 */
export function planServing(
  planned: PlannedModel,
  { ways, ...ask }: ServingAsk,
  limits: Limits,
  makeAdapter: MakeAdapter = (model) => plannedAdapter(model),
): ServingPlan | undefined {
  const parts = new PartsOfSearch();
  const plan = (way: ServingWay, kvTokens: number): ServingPlan => {
    const shape = { ...ask, kvTokens, maxTokens: Math.min(ask.maxTokens, kvTokens) };
    return planShape(planned, way, shape, parts.get(), makeAdapter);
  };
  let best: ServingPlan | undefined;
  for (const way of ways) {
    const most = ask.maxSequences * ask.maxTokens;
    const tokens = largestThatFits((kvTokens) => shortage(plan(way, kvTokens).run, limits), {
      ...{ least: LEAST_TOKENS, most, from: USUAL_TOKENS, parts: KV_PARTS },
    });
    if (tokens === undefined || (best && best.shape.kvTokens >= tokens)) continue;
    best = plan(way, tokens);
    if (tokens >= Math.min(USUAL_TOKENS, ask.maxTokens)) return best;
  }
  return best;
}

/** Steps of the search for the pool's size: within a percent of the largest that fits. */
const KV_PARTS = 128;

/** Returns the way that needs the least memory, with the smallest pool: what a refusal names. */
export function leastServing(
  planned: PlannedModel,
  { ways, ...ask }: ServingAsk,
  makeAdapter: MakeAdapter = (model) => plannedAdapter(model),
): ServingPlan {
  const kvTokens = Math.min(USUAL_TOKENS, ask.maxTokens);
  return planShape(
    planned,
    ways.at(-1)!,
    { ...ask, kvTokens, maxTokens: kvTokens },
    new PartsOfSearch().get(),
    makeAdapter,
  );
}
