/** What the GPU bench measures: sizes, pictures, and the configurations. */
import { hdGrid, imageTokens } from "../../src/data/image.ts";
import { LINEAR_NAMES, linearShape, type ModelConfig, PRESETS } from "../../src/models/spec.ts";
import { TINY, tinyConfig } from "../../src/models/tiny.ts";

export const SIZES = {
  "7b": { model: PRESETS["4khd-7b"] as ModelConfig, hdNums: [9, 16, 25, 55, 91], ranks: [16, 64] },
  /** Runs the whole bench's logic within a minute, on a CPU. */
  tiny: { model: tinyConfig({ ...TINY, vocab: 512, layers: 2 }), hdNums: [1], ranks: [4] },
} as const;
export type Size = keyof typeof SIZES;

/** Of the page; hd_num 91 takes it without downscaling, as 13 x 7 tiles. */
export const PAGE = { width: 4096, height: 2160 };
export const TEXT = { textTokens: 256, labelTokens: 128 };
const GIB = 2 ** 30;
export const CAPS_GIB = [8, 16, 24, 32, 48, 80];

export type Base = "bf16" | "int8" | "nf4" | "fp8";

export type Placement = "resident" | "offloaded" | "offloadedAhead" | "streamed" | "streamedAhead";

const OFFLOADED = { headGroups: 2, layers: [{ count: 1, boundary: "host" }] };
const STREAMED = {
  headGroups: 8, // of the official model; as many as a smaller one has kv heads
  attentionInput: "recomputed",
  layers: [{ count: 1, boundary: "host" }],
  weights: { source: "streamed", aheadLayers: 1 },
  ...{ embeddings: "host", head: "host", vision: "host", gradients: "bf16" },
};

/** Policies by where activations and weights wait; the later ones hold less on the card. */
export const PLACEMENTS: Record<Placement, { headGroups?: number; [option: string]: unknown }> = {
  resident: {},
  offloaded: OFFLOADED,
  offloadedAhead: { ...OFFLOADED, boundaryAhead: true },
  streamed: STREAMED,
  streamedAhead: { ...STREAMED, boundaryAhead: true },
};

export interface GpuCase {
  size: Size;
  hdNum: number;
  rank: number;
  base: Base;
  placement: Placement;
  capBytes?: number;
}

/**
 * Every picture at the larger rank resident in bf16, beside the peers; then what differs in one thing at a time: rank, precision,
 * placement, cap, at the largest picture. `all` crosses them.
 */
export function casesOf(size: Size, all: boolean): GpuCase[] {
  const { hdNums, ranks } = SIZES[size];
  const bases: Base[] = ["bf16", "nf4", "fp8"];
  const placements = Object.keys(PLACEMENTS) as Placement[];
  const rank = ranks.at(-1)!;
  const common = { size, rank, base: "bf16", placement: "resident" } as const;
  const crossed = hdNums.flatMap((hdNum) =>
    ranks.flatMap((other) =>
      bases.flatMap((base) => placements.map((placement) => ({ size, hdNum, rank: other, base, placement }))),
    ),
  );
  const hdNum = hdNums.at(-1)!; // 13.6k tokens: goals are for 8k to 16k
  const varied: GpuCase[] = [
    ...hdNums.map((each) => ({ ...common, hdNum: each })),
    ...ranks.slice(0, -1).map((other) => ({ ...common, hdNum, rank: other })),
    ...bases.slice(1).map((base) => ({ ...common, hdNum, base })),
    ...placements.slice(1).map((placement) => ({ ...common, hdNum, placement })),
  ];
  return [...(all ? crossed : varied), ...capped(size, hdNum, rank)];
}

/**
 * For memory alone: every picture in bf16 and NF4, resident, with activations on the host, and streamed; then the largest in the other
 * precisions too.
 */
export function memoryCases(size: Size): GpuCase[] {
  const { hdNums, ranks } = SIZES[size];
  const placements: Placement[] = ["resident", "offloaded", "streamed"];
  const cases = (hdNum: number, bases: readonly Base[]): GpuCase[] =>
    bases.flatMap((base) =>
      placements.map((placement) => ({ size, hdNum, rank: ranks[0], base, placement })),
    );
  return [
    ...hdNums.flatMap((hdNum) => cases(hdNum, ["bf16", "nf4"])),
    ...cases(hdNums.at(-1)!, ["int8", "fp8"]),
  ];
}

/** The largest picture under every cap, with an NF4 base, in the first placement that ought to fit. */
function capped(size: Size, hdNum: number, rank: number): GpuCase[] {
  if (size === "tiny") return [{ size, hdNum, rank, base: "nf4", placement: "streamed", capBytes: GIB }];
  return CAPS_GIB.map((gib) => {
    const placement = gib < 16 ? "streamed" : gib < 24 ? "offloaded" : "resident";
    return { size, hdNum, rank, base: "nf4", placement, capBytes: gib * GIB };
  });
}

/** Tokens of the page's sample: text, and image. */
export function tokensOf(hdNum: number): { text: number; image: number } {
  const { rows, cols } = hdGrid(PAGE.width, PAGE.height, hdNum);
  return { text: TEXT.textTokens, image: imageTokens(rows, cols) };
}

/**
 * FLOPs that a step of the decoder cannot do without: products with frozen weights forward and for the gradient of their input, causal
 * attention, LoRA, and where labels are the head and all of the last layer but keys and values. No recomputation, and no gradient of a
 * frozen weight.
 */
export function necessaryFlops({ size, hdNum, rank }: GpuCase): number {
  const config = SIZES[size].model;
  const { text, image } = tokensOf(hdNum);
  const tokens = text + image;
  let flops = 0;
  for (const name of LINEAR_NAMES) {
    const [rows, columns] = linearShape(config, name);
    const ofRows = (all: number, pictures: number): number =>
      4 * all * rows * columns + // forward, and the input's gradient
      4 * pictures * config.plora[name].rank * (rows + columns) +
      6 * all * rank * (rows + columns); // and the factors' gradients
    const all = ofRows(tokens, image);
    const asked = ofRows(TEXT.labelTokens, 0);
    const ofKeys = name === "attention.wqkv" ? (2 * config.kvHeads * config.headDim) / rows : 0; // and of values
    flops += (config.layers - 1) * all + ofKeys * all + (1 - ofKeys) * asked;
  }
  const pairs = (config.layers * tokens ** 2 - (tokens - TEXT.labelTokens) ** 2) / 2;
  const attention = 12 * pairs * config.heads * config.headDim; // (2 + 4) products, of 2 D for every pair
  return flops + attention + 4 * TEXT.labelTokens * config.vocab * config.hidden;
}
