/**
 * A pass: rows of several sequences through all layers at once. Rows of a prompt and single rows of answers
 * under way go through each frozen product together; adapters and attention are apart. Control returns to the
 * caller after each layer, with no scope open.
 */

import type { Layer } from "../../models/decoder.ts";
import { deepstackLayers } from "../../models/deepstack.ts";
import { familyOf } from "../../models/families.ts";
import { embedText } from "../../models/inputRows.ts";
import { joinLayer } from "../../models/join.ts";
import { partOnDevice } from "../../models/parts.ts";
import { joinedPositions } from "../../models/positions.ts";
import { packedStrips, projectRows } from "../../models/projection.ts";
import type { Model } from "../../models/weights.ts";
import { rotate_ } from "../../nn/attention/attention.ts";
import { normalizePacked_ } from "../../nn/attention/headNorms.ts";
import { type Positions, ropeTables } from "../../nn/attention/rope.ts";
import { frozenProduct } from "../../nn/frozen/frozen.ts";
import { linearForward, type RowInfo } from "../../nn/linear.ts";
import { rmsNorm } from "../../nn/norm.ts";
import { type Rows, rowCount, rowsOf } from "../../nn/rows.ts";
import { activated } from "../../nn/swiglu.ts";
import { forwardVisits, type LayerSource } from "../../step/layerWeights.ts";
import { fromArray } from "../../torch/create.ts";
import { Owner } from "../../torch/owner.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import type { ServedAdapter } from "../adapters.ts";
import { type Chain, type KvPool, slotsOf } from "../memory/kvPool.ts";
import {
  type AttentionPlan,
  type AttentionRows,
  attendChains,
  byBeginning,
  planAttention,
} from "./attention.ts";
import { type AdapterRows, addLora_, addServed_ } from "./linears.ts";

/** Rows of one sequence that a pass computes. */
export interface Slice {
  /** Has room for these rows and holds the keys and values of all tokens before them. */
  chain: Chain;
  /** Tokens of the sequence before the slice. */
  start: number;
  /** (n) token ids; any id in rows of pictures. */
  ids: Int32Array;
  /** Positions of the n rows. */
  positions: Positions;
  /** Features of pictures, (rows, (1 + L) * C) as FeaturePool has them, by their rows within the slice. */
  features: readonly { rows: Rows; values: Tensor }[];
  adapter: ServedAdapter | undefined;
  /** Whether the logits after the last row are wanted. */
  asksLogits: boolean;
}

export interface PassParts {
  model: Model;
  source: LayerSource;
  pool: KvPool;
}

/** Logits, (V), of the token after a slice, for slices that ask for them. */
export type PassLogits = ReadonlyMap<Slice, Float32Array>;

/** A slice, and its rows among all rows of the pass. */
type Placed = AttentionRows & { slice: Slice };

/** The parts of a pass that all layers have in common. */
interface Shared {
  placed: readonly Placed[];
  adapters: readonly AdapterRows[];
  attention: AttentionPlan;
  info: RowInfo;
  rope: ReturnType<typeof ropeTables>;
  slots: Tensor;
}

/** Runs the slices through the model. Yields after each layer. Their keys and values are in the pool then. */
export function* runPass(
  { model, source, pool }: PassParts,
  slices: readonly Slice[],
): Generator<void, PassLogits> {
  using owner = new Owner();
  const placed = placeSlices(slices);
  const shared = sharedOf(placed, model, pool, owner);
  const hidden = owner.own(embedRows(model, placed)); // (T, C)
  source.begin(forwardVisits(model.config.layers));
  for (let index = 0; index < model.config.layers; index++) {
    scope(() => {
      const layer = joinLayer(model, undefined, index, { weights: source.enter(index) });
      addAttention_(hidden, layer, index, shared, model, pool);
      addMlp_(hidden, layer, index, shared, model);
      addFeatures_(hidden, placed, index, model);
    });
    source.leave();
    yield;
  }
  return headLogits(model, hidden, placed);
}

/** Puts rows of one adapter beside one another and, among them, single rows with the same beginning. */
function placeSlices(slices: readonly Slice[]): Placed[] {
  const adapters = [...new Set(slices.map(({ adapter }) => adapter))];
  const kindOf = ({ adapter, ids }: Slice): number =>
    2 * adapters.indexOf(adapter) + (ids.length > 1 ? 0 : 1);
  const ordered = [...slices].sort((one, other) => kindOf(one) - kindOf(other) || byBeginning(one, other));
  let row = 0;
  return ordered.map((slice) => {
    const rows = { start: row, end: row + slice.ids.length };
    row = rows.end;
    return { slice, rows, chain: slice.chain, start: slice.start };
  });
}

function sharedOf(placed: readonly Placed[], model: Model, pool: KvPool, owner: Owner): Shared {
  const { config, dtype, device } = model;
  const positions = joinedPositions(placed.map(({ slice }) => slice.positions));
  const slots = placed.flatMap(({ rows, start, chain }) =>
    slotsOf(chain, { start, end: start + rowCount(rows) }).flatMap((range) =>
      countedFrom(range.start, rowCount(range)),
    ),
  );
  return {
    placed,
    adapters: adapterRows(placed),
    attention: planAttention(placed),
    info: { place: 0, ploraRows: pictureRows(placed).map(({ rows }) => rows) },
    rope: owner.own(scope(() => ropeTables(positions, config, { dtype, device }))),
    slots: owner.own(pool.slotTensor(slots)),
  };
}

function countedFrom(start: number, count: number): number[] {
  return Array.from({ length: count }, (_, index) => start + index);
}

/** Returns the rows of each adapter, joined. */
function adapterRows(placed: readonly Placed[]): AdapterRows[] {
  const all: AdapterRows[] = [];
  for (const { rows, slice } of placed) {
    const last = all.at(-1);
    if (!slice.adapter) continue;
    if (last?.adapter === slice.adapter) last.rows = { start: last.rows.start, end: rows.end };
    else all.push({ rows, adapter: slice.adapter });
  }
  return all;
}

/** Returns the rows of pictures in the pass, ascending. */
function pictureRows(placed: readonly Placed[]): { rows: Rows; values: Tensor }[] {
  return placed.flatMap(({ rows: { start }, slice }) =>
    slice.features.map(({ rows, values }) => ({
      rows: { start: start + rows.start, end: start + rows.end },
      values,
    })),
  );
}

/** Returns embeddings of the rows, with the features of pictures in their place: (T, C). */
function embedRows(model: Model, placed: readonly Placed[]): Tensor {
  return scope(() => {
    const ids = placed.flatMap(({ slice }) => [...slice.ids]);
    const hidden = embedText(model, Int32Array.from(ids));
    const { hidden: C } = model.config;
    for (const { rows, values } of pictureRows(placed))
      scope(() => void rowsOf(hidden, rows).copy_(values.narrow(1, 0, C)));
    return hidden;
  });
}

/** Adds the features of pictures that a layer has of its own, if it has any. hidden: (T, C). */
function addFeatures_(hidden: Tensor, placed: readonly Placed[], layer: number, { config }: Model): void {
  if (layer >= deepstackLayers(config)) return;
  const { hidden: C } = config;
  for (const { rows, values } of pictureRows(placed))
    rowsOf(hidden, rows).add_(values.narrow(1, (1 + layer) * C, C));
}

/** Adds attention to hidden, (T, C). */
function addAttention_(
  hidden: Tensor,
  layer: Layer,
  index: number,
  { rope, info, adapters, attention, slots }: Shared,
  { config }: Model,
  pool: KvPool,
): void {
  scope(() => {
    const { heads, kvHeads, headDim: D } = config;
    const Q = heads / kvHeads;
    const family = familyOf(config);
    const heads_ = { kvHeads, qkv: (head: number) => family.qkv(config, head), shape: { Q, D, samples: [] } };
    const x = rmsNorm(hidden, layer.attentionNorm);
    const u = projectRows(x, layer.qkv, heads_, info); // (T, G * (Q+2) * D)
    for (const { linear, rows, columns } of packedStrips(heads_).strips)
      addLora_(u, x, { name: linear, layer: index }, adapters, { of: rows, columns });
    const packed = u.view([u.shape[0]!, kvHeads, Q + 2, D]); // (T, G, Q+2, D)
    normalizePacked_(packed, layer.headNorms);
    rotate_(packed.narrow(2, 0, Q + 1), rope);
    pool.write(index, slots, { keys: packed.select(2, Q), values: packed.select(2, Q + 1) });
    const out = attendChains(packed, pool, index, attention); // (T, H * D)
    const placed = { linear: layer.output, name: family.roles.output, layer: index };
    addServed_(hidden, out, placed, info, adapters);
  });
}

/** Adds the MLP to hidden, (T, C). */
function addMlp_(
  hidden: Tensor,
  layer: Layer,
  index: number,
  { info, adapters }: Shared,
  { config }: Model,
): void {
  scope(() => {
    const { roles } = familyOf(config);
    const x = rmsNorm(hidden, layer.ffnNorm);
    const made = (role: "gate" | "up"): Tensor =>
      scope(() => {
        const y = linearForward(x, layer[role], info); // (T, F)
        addLora_(y, x, { name: roles[role], layer: index }, adapters);
        return y;
      });
    const active = activated({ gate: made("gate"), up: made("up") }, false);
    addServed_(hidden, active, { linear: layer.down, name: roles.down, layer: index }, info, adapters);
  });
}

/** Returns the logits after the slices that ask for them. hidden: (T, C), before the final norm. */
function headLogits(model: Model, hidden: Tensor, placed: readonly Placed[]): PassLogits {
  const { config, norm, device } = model;
  const asked = placed.filter(({ slice }) => slice.asksLogits);
  if (asked.length === 0) return new Map();
  const values = scope(() => {
    const lastRows = BigInt64Array.from(asked, ({ rows: { end } }) => BigInt(end - 1));
    const rows = fromArray(lastRows, [asked.length], { dtype: "int64", device });
    const states = rmsNorm(hidden.indexSelect(0, rows), { weight: norm, eps: config.rmsEps }); // (n, C)
    const logits = frozenProduct(states, partOnDevice(model, "head")).to({ dtype: "float32" }); // (n, V)
    return device === "meta" ? new Float32Array() : (logits.toArray() as Float32Array);
  });
  const logitsAt = (index: number): Float32Array =>
    values.slice(index * config.vocab, (index + 1) * config.vocab);
  return new Map(asked.map(({ slice }, index) => [slice, logitsAt(index)]));
}
