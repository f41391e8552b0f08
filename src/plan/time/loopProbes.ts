/** Probes of the CPU's own loops (native/cpu_loops.cc), through their public functions. */

import { ones, zeros } from "../../torch/create.ts";
import { dtypeBytes } from "../../torch/dtypes.ts";
import { attentionLoops } from "../../torch/kernels/attentionLoops.ts";
import { attentionTiles, type PanelOrder, panelsOf } from "../../torch/kernels/attentionTiles.ts";
import { fused } from "../../torch/kernels/kernels.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { attentionKey, curveKey, HEADS_FEATURES } from "./cpuSpeed.ts";
import { namedDtypes, type Probe, type ProbeMemory, Samples, sampled } from "./probes.ts";

/** A loop's entry, its dtypes as the trace names them, and its call. x: the computing dtype, w: float32. */
type Loop = [entry: string, dtypes: string, call: (samples: LoopSamples) => void, strided?: "strided"];
// biome-ignore format: a loop a line
const LOOPS: readonly Loop[] = [
  ["swiglu",                "x",      ({ x, y }) => fused.swiglu([x, x, y])],
  ["swiglu_backward",       "x",      ({ x, y, z }) => fused.swigluBackward([x, y, z])],
  ["rms_norm",              "x",      ({ x, y, weight }) => fused.rmsNorm([x, y, weight], { eps: 1e-5 })],
  ["add_rms_norm_gradient", "x",      ({ x, y, z, weight }) => fused.addRmsNormGradient([x, y, z, weight], { eps: 1e-5 })],
  ["softmax_gradient",      "x,w",    ({ x, targets, losses }) => fused.softmaxGradient([x, targets, losses], { scale: 1 })],
  ["adamw",                 "w",      (samples) => fused.adamW(...samples.update(samples.wide))],
  ["adamw",                 "w,x",    (samples) => fused.adamW(...samples.update(samples.x))],
  ["dropped",               "x",      ({ x, y, mask }) => fused.dropped([x, y], mask)],
  ["dropped",               "x",      ({ x, rowsApart, mask }) => fused.dropped([x, rowsApart], mask), "strided"],
  ["add_dropped",           "x",      ({ x, y, mask }) => fused.addDropped([x, y], mask)],
  ["add_dropped",           "x",      ({ x, rowsApart, mask }) => fused.addDropped([rowsApart, x], mask), "strided"],
  ["causal_softmax",        "x",      ({ scores, start }) => attentionLoops.causalSoftmax([scores], { heads: TILE_HEADS, start, scale: 1 })],
  ["softmax_backward",      "x",      ({ x, y }) => attentionLoops.softmaxBackward([x, y], { scale: 1 })],
  ["add_wide",              "x,w",    ({ x, wide }) => attentionLoops.addWide([x, wide])],
  ["gather_rows",           "x",      ({ x, rowsApart }) => attentionLoops.gatherRows([x, rowsApart]), "strided"],
  ["rope_unpack",           "x",      (samples) => fused.ropeUnpack(samples.rope), "strided"],
  ["rope_pack",             "x",      (samples) => fused.ropePack(samples.rope), "strided"],
  ["dequantize_int8",       "int8,x", ({ x, int8, scales }) => fused.dequantizeInt8([x, int8, scales], { unit: 1 })],
  ["dequantize_nf4",        "x",      (samples) => fused.dequantizeNf4(...samples.nf4)],
];

// biome-ignore format: a loop a line
const TILE_LOOPS: readonly Loop[] = [
  ["pack_columns",          "x",      ({ packed: { columns }, head }) => attentionTiles.packColumns([columns, head]), "strided"],
  ["pack_pairs",            "x",      ({ packed: { pairs }, head }) => attentionTiles.packPairs([pairs, head]), "strided"],
];

// biome-ignore format: a loop a line
const TILES: readonly Loop[] = [
  ["causal_tile",           "x",      (samples) => attentionTiles.causalTile(...samples.tile)],
  ["causal_tile_backward",  "x",      (samples) => attentionTiles.causalTileBackward(...samples.tileBackward)],
];

/** Returns probes of every loop that the processor has, by its key. */
export function loopProbes(memory: ProbeMemory): Map<string, Probe[]> {
  const hasTiles = attentionTiles.causalTile.runs?.(memory.compute);
  const probesOf = ([, , call]: Loop, features: number): Probe[] =>
    memory.elements.map((size) =>
      sampled(new LoopSamples(size, memory, features), (samples) => call(samples as LoopSamples)),
    );
  const loops = [...LOOPS, ...(hasTiles ? TILE_LOOPS : [])].map((loop) => {
    const [entry, dtypes, , strided] = loop;
    return [
      curveKey(entry, namedDtypes(dtypes, memory), strided !== undefined),
      probesOf(loop, HEAD),
    ] as const;
  });
  const tiles = (hasTiles ? TILES : []).flatMap((loop) => {
    const [entry, dtypes] = loop;
    return HEADS_FEATURES.map(
      (features) =>
        [attentionKey(entry, namedDtypes(dtypes, memory), features), probesOf(loop, features)] as const,
    );
  });
  return new Map([...loops, ...tiles]);
}

/** Query heads per kv head, and rows, in a tile of scores. */
const [TILE_HEADS, TILE_ROWS] = [4, 128];
/** Heads of a group (queries, key and value), and features of each. */
const [GROUP_HEADS, HEAD] = [6, 128];
const NF4_BLOCK = 64;
const NF4_NESTED = 256;

class LoopSamples extends Samples {
  readonly #memory: ProbeMemory;
  /** Features of a head in attention's tiles. */
  readonly #features: number;

  constructor(size: number, memory: ProbeMemory, features: number) {
    super(size, memory);
    this.#memory = memory;
    this.#features = features;
  }

  readonly mask = { probability: 0.05, seed: 1n, row: 0, column: 0 };

  get weight(): Tensor {
    return this.once("weight", () => ones([this.shape[1]], { dtype: this.#memory.compute }));
  }

  /**
   * Returns the inputs of an update. Factors and moments are in no cache. The step's numbers leave their
   * values unchanged.
   */
  update(gradient: Tensor): Parameters<typeof fused.adamW> {
    const [value, mean, square] = [this.farWide, this.farWide, this.farWide];
    const scale = this.once("scale", () => ones([]));
    const numbers = { decay: 1, meanRate: 0, squareKeep: 1, squareRate: 0 };
    return [[value, gradient, mean, square, scale], { ...numbers, rootFactor: 1, epsilon: 1, stepSize: 0 }];
  }

  get targets(): Tensor {
    return this.once("targets", () => zeros([this.shape[0]], { dtype: "int64" }));
  }

  get losses(): Tensor {
    return this.once("losses", () => zeros([this.shape[0]]));
  }

  /** Scores of a tile that sees the keys up to its own rows: (rows * heads, keys). */
  get scores(): Tensor {
    const square = Math.max(1, Math.round(Math.sqrt(this.size / TILE_HEADS)));
    const rows = Math.min(TILE_ROWS, square);
    const shape = [rows * TILE_HEADS, Math.floor(this.size / TILE_HEADS / rows)];
    return this.once("scores", () => ones(shape, { dtype: this.#memory.compute }));
  }

  /** First row of the tile. */
  get start(): number {
    const [rows, keys] = this.scores.shape as [number, number];
    return keys - rows / TILE_HEADS;
  }

  /** Keys of a head that the tile sees. Their rows lie apart. */
  get keys(): Tensor {
    return this.#rowsOfHead("keys", this.scores.shape[1]!);
  }

  get panels(): Record<PanelOrder, Tensor> {
    return this.#panelsOf("keys", this.keys);
  }

  /** A head with as many elements as the samples. */
  get head(): Tensor {
    return this.#rowsOfHead("head", Math.ceil(this.size / this.#features));
  }

  get packed(): Record<PanelOrder, Tensor> {
    return this.#panelsOf("head", this.head);
  }

  get tile(): Parameters<typeof attentionTiles.causalTile> {
    const [{ columns, pairs }, keys, start] = [this.panels, this.keys, this.start];
    return [
      [this.scores, this.#heads("out"), this.#heads("query"), keys, keys, columns, pairs],
      { heads: TILE_HEADS, start, scale: 1, allKeys: keys.shape[0]! },
    ];
  }

  get tileBackward(): Parameters<typeof attentionTiles.causalTileBackward> {
    const [[weights, out, query, keys], options] = this.tile;
    const [{ columns, pairs }, dOut] = [this.panels, this.#heads("dOut")];
    const dScores = this.once("dScores", () => weights.emptyLike());
    return [[weights, dScores, out, query, dOut, keys, keys, columns, columns, pairs], options];
  }

  #rowsOfHead(name: string, rows: number): Tensor {
    return this.once(name, () =>
      ones([rows, 2 * this.#features], { dtype: this.#memory.compute }).narrow(1, 0, this.#features),
    );
  }

  #panelsOf(name: string, x: Tensor): Record<PanelOrder, Tensor> {
    const made = (order: PanelOrder): Tensor => this.once(`${order} of ${name}`, () => panelsOf(x, order));
    return { columns: made("columns"), pairs: made("pairs") };
  }

  #heads(name: string): Tensor {
    return this.once(name, () =>
      ones([this.scores.shape[0]!, this.#features], { dtype: this.#memory.compute }),
    );
  }

  /** Columns of a wider matrix. */
  get rowsApart(): Tensor {
    const [rows, columns] = this.shape;
    return this.once("rowsApart", () =>
      ones([rows, 2 * columns], { dtype: this.#memory.compute }).narrow(1, 0, columns),
    );
  }

  /** Inputs of rope, which rotates heads where they lie. */
  get rope(): Parameters<typeof fused.ropeUnpack>[0] {
    const tokens = Math.max(1, Math.floor(this.size / GROUP_HEADS / HEAD));
    const queries = GROUP_HEADS - 2;
    const options = { dtype: this.#memory.compute };
    const u = this.once("u", () => ones([tokens, 1, GROUP_HEADS, HEAD], options));
    const angles = (name: string): Tensor => this.once(name, () => ones([tokens, HEAD / 2], options));
    const heads = [u.narrow(2, 0, queries), u.select(2, queries), u.select(2, queries + 1)] as const;
    return [u, angles("cos"), angles("sin"), ...heads];
  }

  get int8(): Tensor {
    return this.#farBytes("int8", this.size).view(this.shape);
  }

  get scales(): Tensor {
    return this.once("scales", () => ones([this.shape[0]]));
  }

  get nf4(): Parameters<typeof fused.dequantizeNf4> {
    const codes = this.#farBytes("uint8", this.size / 2);
    const absmax = this.#farBytes("uint8", Math.max(16, this.size / NF4_BLOCK));
    const nested = this.once("nested", () => ones([Math.ceil(this.size / NF4_BLOCK / NF4_NESTED)]));
    const window = { offset: 0, width: this.shape[1], row: 0, column: 0 };
    return [[this.x, codes, absmax, this.table, nested], window];
  }

  /** Returns bytes of weights in no cache. Their values do not matter. */
  #farBytes(dtype: "int8" | "uint8", bytes: number): Tensor {
    return scope(() => {
      const { far, compute } = this.#memory;
      return far.next([bytes / dtypeBytes(compute)]).viewDtype(dtype);
    });
  }
}
