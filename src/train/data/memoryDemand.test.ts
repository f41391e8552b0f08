import { describe, expect, it } from "vitest";
import { imageTokens, type TileGrid, tileGrid } from "../../data/pictures/hdTiles/hdGrid.ts";
import { IMAGE_SLOT } from "../../data/samples/sample.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { plannedBatch } from "../../plan/dryRun/batchShapes.ts";
import { demandOf } from "./memoryDemand.ts";

const GRID = tileGrid(1, 1);
const PICTURE = imageTokens(1, 1);

/** Pictures, then text, of which the last ids have labels. */
function sample(tokens: number, labels: number, grids: readonly TileGrid[] = []): PreparedSample {
  const rows = grids.reduce((sum, { tokens }) => sum + tokens, 0);
  const inputIds = new Int32Array(tokens - rows + grids.length).fill(IMAGE_SLOT, 0, grids.length);
  return {
    source: { file: "data.jsonl", index: 0 },
    ...{ inputIds, labels: new Int32Array(inputIds.length).fill(-100).fill(7, inputIds.length - labels) },
    ...{ images: [], grids, tokens },
  } as unknown as PreparedSample;
}

const samples = [sample(400, 5, [GRID]), sample(60, 50), sample(900, 9, [GRID, GRID])];
const SINGLE = { by: "samples", samples: 1 } as const;

describe("one sample a micro-batch", () => {
  const { longest, mostTokens, shapeOf } = demandOf(samples, SINGLE);

  it("asks for the longest sample", () => {
    expect([longest.tokens, mostTokens]).toEqual([900, 900]);
  });

  it("asks, up to a length, for the most labels and rows of either kind that any sample there has", () => {
    const none = { rows: 0, parts: 0 };
    const of = (rows: number, parts = 1) => ({ rows, parts });
    expect(shapeOf(64)).toMatchObject({
      ...{ rows: [64], labelTokens: 50, firstLabel: 13, imageSlices: [] },
      most: { pictures: none, others: of(60) },
    });
    expect(shapeOf(500)).toMatchObject({
      ...{ rows: [500], labelTokens: 50, firstLabel: 449, grids: [GRID] },
      most: { pictures: of(PICTURE), others: of(87) },
    });
    expect(shapeOf(900)).toMatchObject({ most: { pictures: of(2 * PICTURE, 2), others: of(274) } });
    expect(shapeOf(900).imageSlices).toHaveLength(2);
  });

  it("asks for the picture of the most tiles, also where several smaller ones have more rows", () => {
    const wide = tileGrid(1, 7);
    const mixed = [sample(1300, 9, [GRID, GRID, GRID, GRID]), sample(1210, 9, [wide])];
    const shape = demandOf(mixed, SINGLE).shapeOf(1300);
    expect(shape).toMatchObject({ grids: [wide], most: { pictures: { rows: 4 * PICTURE, parts: 4 } } });
    expect(plannedBatch(shape).images).toEqual([wide]);
  });

  it("asks for as many rows from the first label on as any sample has, with the pictures among them", () => {
    const late = {
      ...sample(7 + PICTURE, 0, [GRID]),
      inputIds: Int32Array.of(1, 2, 3, 4, IMAGE_SLOT, 5, 6, 7),
      labels: Int32Array.of(-100, -100, 3, -100, -100, -100, 6, -100),
    };
    const { shapeOf, typical } = demandOf([late], SINGLE);
    const shape = shapeOf(late.tokens);
    expect(shape).toMatchObject({ labelTokens: 2, most: { others: { rows: 7, parts: 2 } } });
    expect(shape.firstLabel).toBeLessThanOrEqual(1); // the row before the first label
    expect(plannedBatch(shape).targets.findIndex((target) => target !== -100)).toBe(shape.firstLabel);
    expect(typical[0]).toMatchObject({ firstLabel: 1 });
  });
});

describe("what is typical", () => {
  const typicalOf = (packing: Parameters<typeof demandOf>[1]) => demandOf(samples, packing).typical;

  it("is single samples, from the shortest third to the longest, with their own pictures", () => {
    const typical = typicalOf({ by: "samples", samples: 1 });
    expect(typical.map(({ rows, grids, labelTokens }) => [rows, grids.length, labelTokens])).toEqual([
      [[60], 0, 50],
      [[400], 1, 5],
      [[900], 2, 9],
    ]);
    const tokens = imageTokens(1, 1);
    expect(typical[2]!.imageSlices.map(({ start, end }) => [start, end])).toEqual([
      [0, tokens],
      [tokens, 2 * tokens],
    ]);
  });

  it("is a micro-batch of samples from all parts where several go together", () => {
    expect(typicalOf({ by: "samples", samples: 2 }).map(({ rows }) => rows)).toEqual([[60, 900]]);
    const [pack, ...others] = typicalOf({ by: "tokens", tokens: 1500 });
    expect(others).toEqual([]);
    expect(pack).toMatchObject({ rows: [60, 400, 900], grids: [GRID, GRID, GRID], labelTokens: 64 });
    expect(pack!.imageSlices.map(({ start, image }) => [start, image])[0]).toEqual([60, 0]);
  });
});

it("several samples a micro-batch may be the longest ones, also of two epochs", () => {
  expect(demandOf(samples, { by: "samples", samples: 2 }).mostTokens).toBe(1300);
  expect(demandOf(samples, { by: "samples", samples: 4 }).mostTokens).toBe(900 + 400 + 60 + 900);
});

it("several samples have at most what those with the most of each have together", () => {
  const { shapeOf } = demandOf(samples, { by: "samples", samples: 2 });
  expect(shapeOf(1300)).toMatchObject({
    labelTokens: 59,
    most: { pictures: { rows: 3 * PICTURE, parts: 3 } },
  });
});

it("a pack may be full, and have as many labels and rows of pictures as the samples that consist of them most", () => {
  const { mostTokens, shapeOf } = demandOf(samples, { by: "tokens", tokens: 4096 });
  expect(mostTokens).toBe(4096);
  const { labelTokens, most } = shapeOf(4096);
  expect(labelTokens).toBe(50 + 9 + 5 + 29 * 50); // the next epochs' in the same pack
  expect(most!.pictures.rows).toBe(Math.ceil((4096 * PICTURE) / 400));
});
