/** Cases of the GPU bench: sizes, pictures and configurations. */
import { hdGrid, imageTokens } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { formatBytes, formatCount, GIB } from "../../src/errors.ts";
import { linearShape } from "../../src/models/families.ts";
import { PRESETS, XCOMPOSER_LINEARS, type XComposerConfig } from "../../src/models/xcomposer2/spec.ts";
import { TINY, tinyConfig } from "../../src/models/xcomposer2/tiny.ts";
import type { SampleSize } from "../workload.ts";

export const SIZES = {
  "7b": { model: PRESETS["4khd-7b"] as XComposerConfig, hdNums: [9, 16, 25, 55, 91], ranks: [16, 64] },
  /** Runs the whole bench's logic within a minute, on a CPU. */
  tiny: { model: tinyConfig({ ...TINY, vocab: 512, layers: 2 }), hdNums: [1], ranks: [4] },
} as const;
export type Size = keyof typeof SIZES;

/** hd_num values of the page; 91 keeps it without downscaling, as 13 x 7 tiles. */
export const PAGE = { width: 4096, height: 2160 };
export const TEXT = { textTokens: 256, labelTokens: 128 };
export const CAPS_GIB = [8, 16, 24, 32, 48, 80];

export type Base = "bf16" | "int8" | "nf4" | "fp8";

/** "planned": whatever the planner finds the fastest within the case's cap. */
export type Placement =
  | "resident"
  | "offloaded"
  | "offloadedAhead"
  | "streamed"
  | "streamedAhead"
  | "planned";

const OFFLOADED = { headGroups: 2, layers: [{ count: 1, boundary: "host" }] };
const STREAMED = {
  headGroups: 8, // of the official model; as many as a smaller one has kv heads
  attentionInput: "recomputed",
  layers: [{ count: 1, boundary: "host" }],
  weights: { source: "streamed", aheadLayers: 1 },
  ...{ embeddings: "host", head: "host", vision: "host", gradients: "bf16" },
};

/** Policies by where activations and weights wait; the later ones hold less on the card. */
export const PLACEMENTS: Record<
  Exclude<Placement, "planned">,
  { headGroups?: number; [option: string]: unknown }
> = {
  resident: {},
  offloaded: OFFLOADED,
  offloadedAhead: { ...OFFLOADED, boundaryAhead: true },
  streamed: STREAMED,
  streamedAhead: { ...STREAMED, boundaryAhead: true },
};
const PLACEMENT_NAMES = Object.keys(PLACEMENTS) as (keyof typeof PLACEMENTS)[];

export interface GpuCase {
  size: Size;
  hdNum: number;
  /** Tokens of the sample's text; `TEXT` has the usual number. */
  textTokens?: number;
  rank: number;
  base: Base;
  placement: Placement;
  capBytes?: number;
}

/**
 * Returns the cases, most valuable first, for a machine that is lent for less time than all cases need.
 * Order: what the goals ask of the whole page, then of 16k and 8k tokens, then one difference at a time
 * (rank, picture, cap). `all` adds every other combination.
 */
export function casesOf(size: Size, all: boolean): GpuCase[] {
  const { hdNums, ranks } = SIZES[size];
  const page = {
    size,
    hdNum: hdNums.at(-1)!,
    rank: ranks.at(-1)!,
    base: "bf16",
    placement: "resident",
  } as const;
  const bases: Base[] = ["nf4", "fp8"];
  const ofGoals: GpuCase[] = [
    page,
    { ...page, placement: "planned" },
    ...bases.map((base) => ({ ...page, base })),
    ...capped(page, CAPS_GIB.slice(0, 1)),
    ...PLACEMENT_NAMES.slice(1).map((placement) => ({ ...page, placement })),
    ...bases.map((base) => ({ ...page, base, placement: "offloadedAhead" as const })),
    ...atLength(page, 16_384).flatMap((long): GpuCase[] => [
      ...(["resident", "planned", "streamedAhead"] as const).map((placement) => ({ ...long, placement })),
      { ...long, placement: "planned", capBytes: 16 * GIB }, // the weights alone take that, so they have to be streamed
    ]),
    ...(hdNums.length > 1 ? atLength({ ...page, hdNum: hdNums.at(-2)!, placement: "planned" }, 8192) : []),
  ];
  const varied: GpuCase[] = [
    ...ranks.slice(0, -1).map((rank) => ({ ...page, rank })),
    ...hdNums
      .slice(0, -1)
      .reverse()
      .map((hdNum) => ({ ...page, hdNum })),
    ...capped(page, CAPS_GIB.slice(1)),
  ];
  return [...ofGoals, ...varied, ...(all ? crossed(size, [...ofGoals, ...varied]) : [])];
}

/** Under every cap, in bf16 and NF4. */
function capped(page: GpuCase, capsGib: readonly number[]): GpuCase[] {
  if (page.size === "tiny")
    return capsGib.length > 1 ? [] : [{ ...page, placement: "planned", capBytes: GIB }];
  return capsGib.flatMap((gib) =>
    (["nf4", "bf16"] as const).map((base) => ({
      ...page,
      ...{ base, placement: "planned" as const, capBytes: gib * GIB },
    })),
  );
}

/** A case with text up to so many tokens; none of the tiny size. */
function atLength(page: GpuCase, tokens: number): GpuCase[] {
  return page.size === "tiny" ? [] : [{ ...page, textTokens: tokens - tokensOf(page).image }];
}

/** Every combination but those that are there already. */
function crossed(size: Size, there: readonly GpuCase[]): GpuCase[] {
  const { hdNums, ranks } = SIZES[size];
  const titles = new Set(there.map(titleOf));
  return hdNums
    .flatMap((hdNum) =>
      ranks.flatMap((rank) =>
        (["bf16", "nf4", "fp8"] as const).flatMap((base) =>
          PLACEMENT_NAMES.map((placement) => ({ size, hdNum, rank, base, placement })),
        ),
      ),
    )
    .filter((each) => !titles.has(titleOf(each)));
}

/**
 * Returns the cases for memory alone: the largest picture under every cap; every picture in bf16 and NF4
 * (resident, with activations on the host, streamed); the largest picture in the other precisions.
 */
export function memoryCases(size: Size): GpuCase[] {
  const { hdNums, ranks } = SIZES[size];
  const placements: Placement[] = ["resident", "offloaded", "streamed"];
  const cases = (hdNum: number, bases: readonly Base[]): GpuCase[] =>
    bases.flatMap((base) =>
      placements.map((placement) => ({ size, hdNum, rank: ranks[0], base, placement })),
    );
  const page: GpuCase = { size, hdNum: hdNums.at(-1)!, rank: ranks[0], base: "bf16", placement: "resident" };
  return [
    ...capped(page, CAPS_GIB.slice(0, 1)),
    ...capped(page, CAPS_GIB.slice(1)),
    ...hdNums.toReversed().flatMap((hdNum) => cases(hdNum, ["bf16", "nf4"])),
    ...cases(hdNums.at(-1)!, ["int8", "fp8"]),
  ];
}

/** Returns a case's name in tables and in the journal; names are unique. */
export function titleOf(wanted: GpuCase): string {
  const { hdNum, rank, base, placement, capBytes } = wanted;
  const { text, image } = tokensOf(wanted);
  const cap = capBytes ? `, cap ${formatBytes(capBytes)}` : "";
  return `hd_num ${hdNum} (${formatCount(text + image)} tokens), r ${rank}, ${base}, ${placement}${cap}`;
}

/** Tokens of the page's sample: text, and image. */
export function tokensOf({ hdNum, textTokens = TEXT.textTokens }: Pick<GpuCase, "hdNum" | "textTokens">): {
  text: number;
  image: number;
} {
  const { rows, cols } = hdGrid(PAGE.width, PAGE.height, hdNum);
  return { text: textTokens, image: imageTokens(rows, cols) };
}

/** The sample of a case, as bench/workload.ts makes it. */
export function sampleSizeOf(wanted: GpuCase): SampleSize {
  return { ...TEXT, textTokens: tokensOf(wanted).text, vocab: SIZES[wanted.size].model.vocab };
}

/**
 * Counts the FLOPs that a step of the decoder cannot avoid: products with frozen weights forward and for the
 * gradient of their input, causal attention, LoRA; for rows with labels the head and all of the last layer
 * except keys and values. It counts no recomputation and no gradient of a frozen weight.
 */
export function necessaryFlops(wanted: GpuCase): number {
  const { size, rank } = wanted;
  const config = SIZES[size].model;
  const { text, image } = tokensOf(wanted);
  const tokens = text + image;
  let flops = 0;
  for (const name of XCOMPOSER_LINEARS) {
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
