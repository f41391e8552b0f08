import { describe, expect, it } from "vitest";
import { imageTokens } from "../../data/pictures/image.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { plannedBatch } from "../../plan/dryRun/batchShapes.ts";
import { demandOf } from "./memoryDemand.ts";

const GRID = { rows: 1, cols: 1 };

function sample(tokens: number, labels: number, pictures = 0): PreparedSample {
  return {
    source: { file: "data.jsonl", index: 0 },
    inputIds: new Int32Array(tokens),
    labels: new Int32Array(tokens).fill(-100).fill(7, 0, labels),
    images: [],
    grids: Array.from({ length: pictures }, () => GRID),
    tokens,
  } as unknown as PreparedSample;
}

const samples = [sample(400, 5, 1), sample(60, 50), sample(900, 9, 2)];

describe("one sample a micro-batch", () => {
  const { longest, mostTokens, shapeOf } = demandOf(samples, { by: "samples", samples: 1 });

  it("asks for the longest sample", () => {
    expect([longest.tokens, mostTokens]).toEqual([900, 900]);
  });

  it("asks, up to a length, for the most labels and pictures that any sample there has", () => {
    expect(shapeOf(64)).toMatchObject({ sampleTokens: 64, labelTokens: 50, pictures: [] });
    expect(shapeOf(500)).toMatchObject({ sampleTokens: 500, labelTokens: 50, pictures: [GRID] });
    expect(shapeOf(900)).toMatchObject({ labelTokens: 50, pictures: [GRID, GRID] });
  });

  it("asks for as many rows from the first label on as any sample has, with the pictures among them", () => {
    const picture = imageTokens(1, 1);
    const late = {
      ...sample(7 + picture, 0, 1),
      inputIds: Int32Array.of(1, 2, 3, 4, -200, 5, 6, 7),
      labels: Int32Array.of(-100, -100, 3, -100, -100, -100, 6, -100),
    };
    const shape = demandOf([late], { by: "samples", samples: 1 }).shapeOf(late.tokens);
    expect(shape.askedTokens).toBe(late.tokens - 1); // the row before the first label on
    const firstLabel = plannedBatch(shape).targets.findIndex((target) => target !== -100);
    expect(firstLabel).toBe(1);
    expect(demandOf([late], { by: "samples", samples: 1 }).typical[0]).toMatchObject({ firstLabel: 1 });
    expect(shapeOf(64).askedTokens).toBe(60);
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

it("a pack may be full, and have labels throughout", () => {
  const { mostTokens, shapeOf } = demandOf(samples, { by: "tokens", tokens: 4096 });
  expect(mostTokens).toBe(4096);
  expect(shapeOf(4096).labelTokens).toBe(4095);
  expect(shapeOf(4096).pictures.length).toBeGreaterThan(10);
});
