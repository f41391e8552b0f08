/**
 * Pictures to image tokens: a tower over the patches of a picture of any size, and the merger of 2x2 patches
 * to a token. Frozen, so without a graph. The tower holds the whole picture's hidden states, (P, W), in
 * window order if some layers attend within windows, and computes some units at a time. A layer that attends
 * to the whole picture holds all keys and values besides. Sources: transformers, models/qwen2_5_vl and
 * models/qwen3_vl.
 */
import type { PatchGrid } from "../../data/pictures/patches/patchGrid.ts";
import type { PatchPicture } from "../../data/pictures/patches/patchPixels.ts";
import { addAffine_, affine, affineRows, normed } from "../../nn/affine.ts";
import { rotate_ } from "../../nn/attention/attention.ts";
import { fullAttention } from "../../nn/attention/kernels.ts";
import type { Rope } from "../../nn/attention/rope.ts";
import { addFrozenProduct_ } from "../../nn/frozen/frozen.ts";
import { kindsOf, type Rows, rowCount, rowsOf, tilesOf } from "../../nn/rows.ts";
import { activated } from "../../nn/swiglu.ts";
import { empty, fromArray } from "../../torch/create.ts";
import { keep, scope, type Tensor } from "../../torch/tensor.ts";
import { repeated, repeatedSteps } from "../../torch/trace.ts";
import type { EncodeOptions } from "../family.ts";
import { normalisedPatches } from "../patchPixels.ts";
import { learnedPositions, type PatchOrder, ropeOfPatches } from "./patchPlaces.ts";
import type { Merger, PatchLayer, PatchTowerConfig, PatchTowerWeights } from "./towerWeights.ts";
import { inverseOf, type WindowOrder, windowOrder } from "./windows.ts";

/** A picture, or only its layout: a plan on meta needs no pixels. */
export type Picture = PatchGrid & Partial<Pick<PatchPicture, "patches">>;

/** Tokens of a unit. */
const UNIT_TOKENS = 256;

type Steps = Generator<{ done: number; total: number }, void>;

/** Work on one picture. */
interface Encoding {
  config: PatchTowerConfig;
  picture: Picture;
  order: WindowOrder & PatchOrder;
  /** Tokens that are computed at a time. */
  tileTokens: number;
  /** Patches of a token. */
  merged: number;
  options: EncodeOptions;
  /** Tables of all patches in window order, (P, 1, 1, D/2) in float32, or in float64 for such a model. */
  rope: Rope;
  /** Tiles computed so far, and all. */
  progress: { done: number; total: number };
}

/**
 * Writes image tokens into rows of a larger tensor, (tokens, C), and the features for the decoder's layers
 * into options.deepstack. Yields after each tile, with no scope open.
 */
export function* encodeInto(
  tokens: Tensor,
  weights: PatchTowerWeights,
  config: PatchTowerConfig,
  picture: Picture,
  options: EncodeOptions,
): Steps {
  const encoding = encodingOf(config, picture, options);
  using _cos = encoding.rope.cos;
  using _sin = encoding.rope.sin;
  using hidden = emptyHidden(encoding);
  yield* runTower(hidden, weights, encoding);
  yield* merge(tokens, hidden, weights.merger, encoding);
}

/** Returns the states after the tower's last layer, (P, W), in the order of the picture's patches. */
export function towerStates(
  weights: PatchTowerWeights,
  config: PatchTowerConfig,
  picture: Picture,
  options: EncodeOptions,
): Tensor {
  return scope(() => {
    const encoding = encodingOf(config, picture, options);
    const hidden = emptyHidden(encoding);
    for (const _ of runTower(hidden, weights, encoding));
    const inOrder = rowsAt(hidden, inverseOf(encoding.order.places), encoding);
    hidden.dispose();
    for (const table of [encoding.rope.cos, encoding.rope.sin]) table.dispose();
    return inOrder.view([-1, config.vision.hidden]);
  });
}

/** The caller disposes the tables. */
function encodingOf(config: PatchTowerConfig, picture: Picture, options: EncodeOptions): Encoding {
  const { windowPixels, patchPixels, mergeSide, layers } = config.vision;
  const windowTokens = windowPixels && Math.floor(windowPixels / mergeSide / patchPixels);
  const windows = windowOrder(picture, windowTokens ?? Math.max(picture.rows, picture.columns));
  const order = { ...windows, picture, mergeSide };
  const tileTokens = Math.ceil(options.visionBatch * UNIT_TOKENS); // a test may take less than a unit
  const tiles = Math.ceil(picture.tokens / tileTokens);
  return {
    ...{ config, picture, order, tileTokens, options, merged: mergeSide ** 2 },
    rope: keep(scope(() => ropeOfPatches(config.vision, order, options))),
    progress: { done: 0, total: tiles * (layers + 2 + (options.deepstack?.length ?? 0)) },
  };
}

/** The caller disposes the tensor: (P, W). */
function emptyHidden({ config, picture, merged, options }: Encoding): Tensor {
  return keep(scope(() => empty([picture.tokens * merged, config.vision.hidden], options)));
}

/** Fills hidden, (P, W), with the states after the last layer, and the rooms for features on the way. */
function* runTower(hidden: Tensor, weights: PatchTowerWeights, encoding: Encoding): Steps {
  const { vision } = encoding.config;
  const { deepstack: rooms = [] } = encoding.options;
  yield* embedPatches_(hidden, weights, encoding);
  let next = 0;
  for (const [index, room] of rooms.entries()) {
    const end = vision.deepstackLayers![index]! + 1;
    yield* runLayers_(hidden, weights.layers.slice(next, end), next, encoding);
    yield* merge(room, hidden, weights.deepstack![index]!, encoding);
    next = end;
  }
  yield* runLayers_(hidden, weights.layers.slice(next), next, encoding);
}

/** Runs some layers that follow on one another. */
function* runLayers_(hidden: Tensor, some: readonly PatchLayer[], first: number, encoding: Encoding): Steps {
  const { fullAttention: full } = encoding.config.vision;
  const layers = some.map((layer, at) => ({ layer, isFull: full?.includes(first + at) ?? true }));
  for (const { part, times } of kindsOf(layers, ({ isFull }) => String(isFull))) {
    const run = part.isFull ? wholePictureLayer_ : windowsLayer_;
    yield* repeatedSteps(times, () => run(hidden, part.layer, encoding));
  }
}

/** Runs the body for each tile in a scope of its own; tiles of as many rows are alike. */
function* forEachTile(
  tiles: readonly Rows[],
  { progress }: Encoding,
  body: (tile: Rows) => void,
  counts = 1,
): Steps {
  for (const { part, times } of kindsOf(tiles, rowCount)) {
    repeated(times, () => scope(() => body(part)));
    progress.done = Math.min(progress.total, progress.done + counts);
    yield { ...progress };
  }
}

/** Writes the projected patches into hidden, (P, W), with their learned positions if the tower has them. */
function* embedPatches_(hidden: Tensor, weights: PatchTowerWeights, encoding: Encoding): Steps {
  const { picture, tileTokens, merged, options, order, config } = encoding;
  const { patch, patchBias, positions } = weights;
  using weight = keep(scope(() => sumOfFrames(patch, options))); // (W, 3 p²)
  yield* forEachTile(tilesOf(picture.tokens, tileTokens), encoding, (tile) => {
    const rows = { start: tile.start * merged, end: tile.end * merged };
    const pixels = pixelsOf(tile, encoding).to({ dtype: options.dtype });
    const into = rowsOf(hidden, rows).addmm_(pixels, weight.t(), { beta: 0 });
    if (patchBias) into.add_(patchBias);
    if (positions) into.add_(learnedPositions(positions, config.vision.positionSide!, order, rows));
  });
}

/** The two frames of a picture are the same, so a product with the sum of their weights serves both. */
function sumOfFrames(patch: Tensor, { dtype }: EncodeOptions): Tensor {
  const [width, channels] = patch.shape as [number, number];
  const wide = patch.view([width, channels, 2, -1]).to({ dtype: dtype === "float64" ? dtype : "float32" });
  return wide.sumDim([2]).to({ dtype }).view([width, -1]);
}

/** Returns the normalised pixels of some tokens' patches, (t, 3 p²) in float32, in window order. */
function pixelsOf(tile: Rows, { picture, order, config, merged, options }: Encoding): Tensor {
  const patchValues = 3 * config.vision.patchPixels ** 2;
  const tokenBytes = merged * patchValues;
  const gathered = picture.patches && new Uint8Array(rowCount(tile) * tokenBytes);
  for (let at = tile.start; gathered && at < tile.end; at++) {
    const from = order.places[at]! * tokenBytes;
    gathered.set(picture.patches!.subarray(from, from + tokenBytes), (at - tile.start) * tokenBytes);
  }
  return normalisedPatches(gathered, [rowCount(tile) * merged, patchValues], config.pictures, options);
}

/** Adds a layer with attention in windows and its MLP to hidden, (P, W), some windows at a time. */
function* windowsLayer_(hidden: Tensor, layer: PatchLayer, encoding: Encoding): Steps {
  const { order, tileTokens, merged } = encoding;
  for (const { start, windows, tokensPerWindow } of order.runs) {
    const atATime = Math.max(1, Math.floor(tileTokens / tokensPerWindow));
    const tiles = tilesOf(windows, atATime).map((some) => ({
      start: (start + some.start * tokensPerWindow) * merged,
      end: (start + some.end * tokensPerWindow) * merged,
    }));
    const size = tokensPerWindow * merged;
    yield* forEachTile(tiles, encoding, (tile) => {
      const rows = rowsOf(hidden, tile);
      addWindowAttention_(rows, layer, size, ropeOf(encoding, tile), encoding);
      addMlp_(rows, layer);
    });
  }
}

/** Adds attention within windows of `size` patches to rows, (n * size, W). */
function addWindowAttention_(
  rows: Tensor,
  layer: PatchLayer,
  size: number,
  rope: Rope,
  { config: { vision } }: Encoding,
): void {
  scope(() => {
    const { heads: H } = vision;
    const u = affine(normed(rows, layer.norm1), layer.qkv).view([rows.shape[0]!, 1, 3 * H, -1]); // (t, 1, 3H, D)
    rotateWide_(u.narrow(2, 0, 2 * H), rope);
    const [query, key, value] = [0, 1, 2].map((part) => {
      return u.view([-1, size, 3, H, u.shape[3]!]).select(2, part).transpose(1, 2); // (n, H, size, D)
    }) as [Tensor, Tensor, Tensor];
    const out = fullAttention(query, key, value); // (n, H, size, D)
    addAffine_(rows, out.transpose(1, 2).reshape(rows.shape), layer.proj);
  });
}

/**
 * Adds a layer with attention over the whole picture and its MLP to hidden, (P, W). Keys and values of all
 * patches come first; then a tile after the other attends to them, and is overwritten.
 */
function* wholePictureLayer_(hidden: Tensor, layer: PatchLayer, encoding: Encoding): Steps {
  const { picture, tileTokens, merged, options, config } = encoding;
  const { heads: H, hidden: W } = config.vision;
  const patches = picture.tokens * merged;
  const tiles = tilesOf(patches, tileTokens * merged);
  using keysAndValues = keep(scope(() => empty([patches, 2, H, W / H], options)));
  yield* forEachTile(
    tiles,
    encoding,
    (tile) => {
      const into = rowsOf(keysAndValues, tile);
      const ofOthers = affineRows(layer.qkv, { start: W, end: 3 * W });
      const x = normed(rowsOf(hidden, tile), layer.norm1);
      const flat = into.view([rowCount(tile), 2 * W]).copy_(ofOthers.bias!);
      addFrozenProduct_(flat, x, ofOthers.weight);
      rotateWide_(into.narrow(1, 0, 1), ropeOf(encoding, tile));
    },
    0,
  );
  const [key, value] = [0, 1].map((part) => {
    return keep(scope(() => keysAndValues.select(1, part).unsqueeze(0).transpose(1, 2))); // (1, H, P, D)
  }) as [Tensor, Tensor];
  using _key = key;
  using _value = value;
  yield* forEachTile(tiles, encoding, (tile) => {
    const rows = rowsOf(hidden, tile);
    scope(() => {
      const ofQueries = affineRows(layer.qkv, { start: 0, end: W });
      const query = affine(normed(rows, layer.norm1), ofQueries).view([rowCount(tile), 1, H, -1]);
      rotateWide_(query, ropeOf(encoding, tile));
      const out = fullAttention(query.permute([1, 2, 0, 3]), key, value); // (1, H, t, D)
      addAffine_(rows, out.transpose(1, 2).reshape(rows.shape), layer.proj);
    });
    addMlp_(rows, layer);
  });
}

/** Adds the MLP of norm2(rows) to rows, (t, W). */
function addMlp_(rows: Tensor, layer: PatchLayer): void {
  scope(() => {
    const x = normed(rows, layer.norm2);
    if ("gate" in layer) {
      const active = activated({ gate: affine(x, layer.gate), up: affine(x, layer.up) }, false); // (t, F)
      addAffine_(rows, active, layer.down);
    } else
      addAffine_(
        rows,
        scope(() => affine(x, layer.fc1).gelu({ approximate: "tanh" })),
        layer.fc2,
      );
  });
}

/** Writes the picture's tokens, (tokens, C), row by row: four patches side by side through a merger. */
function* merge(tokens: Tensor, hidden: Tensor, merger: Merger, encoding: Encoding): Steps {
  const { picture, tileTokens, order, merged } = encoding;
  const { norm, normsToken = false, mlp } = merger;
  const inverse = inverseOf(order.places);
  yield* forEachTile(tilesOf(picture.tokens, tileTokens), encoding, (tile) => {
    const gathered = rowsAt(hidden, inverse.subarray(tile.start, tile.end), encoding);
    const W = hidden.shape[1]!;
    const x = normed(gathered.view([-1, normsToken ? merged * W : W]), norm).view([-1, merged * W]); // (t, 4W)
    const inner = affine(x, mlp[0]).gelu(); // (t, 4W)
    rowsOf(tokens, tile).copy_(affine(inner, mlp[1]));
  });
}

/** Returns the patches of some tokens, (n, merged * W). */
function rowsAt(hidden: Tensor, tokens: Int32Array, { merged, options: { device } }: Encoding): Tensor {
  return scope(() => {
    const index = fromArray(tokens, [tokens.length], { dtype: "int64", device });
    return hidden.view([-1, merged * hidden.shape[1]!]).indexSelect(0, index);
  });
}

function ropeOf({ rope: { cos, sin } }: Encoding, tile: Rows): Rope {
  return { cos: rowsOf(cos, tile), sin: rowsOf(sin, tile) };
}

/** Rotates heads in place, in float32 as the official code does. x: (t, G, heads, D). */
function rotateWide_(x: Tensor, rope: Rope): void {
  if (x.dtype === rope.cos.dtype) rotate_(x, rope);
  else {
    scope(() => {
      const wide = x.to({ dtype: rope.cos.dtype });
      rotate_(wide, rope);
      x.copy_(wide);
    });
  }
}
