import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { randomModel, smallConfig, visionOf } from "../../../tests/helpers/randomModel.ts";
import { globalView } from "../../data/pictures/hdTiles/globalView.ts";
import { imageTokens, tileGrid } from "../../data/pictures/hdTiles/hdGrid.ts";
import type { HdImage } from "../../data/pictures/hdTiles/hdImage.ts";
import { empty } from "../../torch/create.ts";
import { memoryStats, planningFor, resetPeak } from "../../torch/device.ts";
import { dispose, scope, type Tensor } from "../../torch/tensor.ts";
import { BASES } from "../precision/bases.ts";
import type { Model } from "../weights.ts";
import { PRESETS } from "./spec.ts";
import { encodeImage, encodeImageInto, type Picture } from "./vision.ts";

const TILE_PIXELS = 336;

const CONFIG = smallConfig({
  vision: { hidden: 32, layers: 2, heads: 4, ffn: 128, imagePixels: 336, patchPixels: 14, eps: 1e-5 },
});
const S = 12; // tokens along a tile's side

describe("encodeImage", () => {
  const model = randomModel(CONFIG, { dtype: "float32" });
  afterAll(() => dispose(model));

  test("gives as many tokens as data counts on, a separator ending each row and one between", () => {
    scope(() => {
      const tokens = rowsOf(encode(model, randomPicture(2, 3), 4));
      expect(tokens).toHaveLength(imageTokens(2, 3));
      const globalEnds = Array.from({ length: S }, (_, row) => tokens[row * (S + 1) + S]);
      const first = S * (S + 1) + 1;
      const tileEnds = Array.from({ length: 2 * S }, (_, row) => tokens[first + row * (3 * S + 1) + 3 * S]);
      expect(new Set([...globalEnds, ...tileEnds].map(String)).size).toBe(1);
      expect(tokens.filter((token) => String(token) === String(globalEnds[0]))).toHaveLength(3 * S);
      expect(tokens.filter((token) => String(token) === String(tokens[first - 1]))).toHaveLength(1);
    });
  });

  test("places each tile's tokens where the tile is", () => {
    scope(() => {
      const picture = randomPicture(2, 3);
      const tokens = rowsOf(encode(model, picture, 3));
      for (const [row, col] of [
        [0, 0],
        [0, 2],
        [1, 1],
      ] as const) {
        const alone = rowsOf(encode(model, cutTile(picture, row, col), 2));
        const first = S * (S + 1) + 1;
        for (let y = 0; y < S; y++) {
          const start = first + (row * S + y) * (3 * S + 1) + col * S;
          const expected = alone.slice(first + y * (S + 1), first + y * (S + 1) + S).flat();
          expect(tokens.slice(start, start + S).flat()).toMatchArray(expected, { atol: 1e-5 });
        }
      }
    });
  });

  test("gives the same tokens in batches of any size", () => {
    scope(() => {
      const picture = randomPicture(1, 3);
      const [whole, ...parts] = [4, 1, 2, 3, 100].map((batch) =>
        rowsOf(encode(model, picture, batch)).flat(),
      );
      for (const part of parts) expect(part).toMatchArray(whole!, { atol: 1e-5 });
    });
  });

  test("fills rows of a larger tensor and leaves the others alone", () => {
    scope(() => {
      const picture = randomPicture(1, 1);
      const rows = imageTokens(1, 1);
      const hidden = empty([rows + 5, CONFIG.hidden]).fill_(7);
      const steps = encodeImageInto(
        hidden.narrow(0, 2, rows),
        visionOf(model).weights,
        visionOf(model).config,
        picture,
        {
          dtype: "float32",
          device: "cpu",
          visionBatch: 1,
        },
      );
      expect([...steps]).toEqual([
        { done: 1, total: 2 },
        { done: 2, total: 2 },
      ]);
      const [before, after] = [hidden.narrow(0, 0, 2), hidden.narrow(0, rows + 2, 3)];
      expect([...before.toFloat32Array(), ...after.toFloat32Array()].every((value) => value === 7)).toBe(
        true,
      );
      const expected = encode(model, picture, 1).toFloat32Array();
      expect(hidden.narrow(0, 2, rows).toFloat32Array()).toMatchArray(expected);
    });
  });

  test("gives back every byte but the tokens, also when it is left half-way", () => {
    const beforeBytes = memoryStats("cpu").liveBytes;
    const tokens = encode(model, randomPicture(1, 2), 1);
    expect(memoryStats("cpu").liveBytes - beforeBytes).toBe(tokens.bytes);
    const steps = encodeImageInto(
      tokens,
      visionOf(model).weights,
      visionOf(model).config,
      randomPicture(1, 2),
      {
        dtype: "float32",
        device: "cpu",
        visionBatch: 1,
      },
    );
    steps.next();
    steps.return();
    expect(memoryStats("cpu").liveBytes - beforeBytes).toBe(tokens.bytes);
    tokens.dispose();
  });
});

describe("memory", () => {
  const cases = (["float32", "bfloat16"] as const).flatMap((dtype) =>
    BASES.map((visionBase) => ({ dtype, visionBase })),
  );
  test.each(cases)(
    "a plan on meta has the peak of the run on cpu, in $dtype with a tower in $visionBase",
    (options) => {
      const models = {
        cpu: randomModel(CONFIG, options),
        meta: randomModel(CONFIG, { ...options, device: "meta" }),
      };
      const grids = fc.record({
        rows: fc.integer({ min: 1, max: 3 }),
        cols: fc.integer({ min: 1, max: 3 }),
        visionBatch: fc.integer({ min: 1, max: 5 }),
      });
      fc.assert(
        fc.property(grids, ({ rows, cols, visionBatch }) => {
          const measured = peakBytes(models.cpu, randomPicture(rows, cols), visionBatch);
          expect(peakBytes(models.meta, tileGrid(rows, cols), visionBatch)).toBe(measured);
          expect(peakBytes(models.meta, randomPicture(rows, cols), visionBatch)).toBe(measured);
        }),
        { numRuns: options.visionBase === "bf16" ? 6 : 3 },
      );
      dispose(models);
    },
  );

  test("a tile more in a batch of the official tower costs 6.8 MiB in bfloat16, whatever the picture", () => {
    const official = smallConfig({ hidden: 4096, vision: { ...PRESETS["4khd-7b"].vision, layers: 2 } });
    const model = randomModel(official, { dtype: "bfloat16", device: "meta" });
    const tokenBytes = (rows: number, cols: number) => imageTokens(rows, cols) * official.hidden * 2;
    const batchBytes = (visionBatch: number, rows: number, cols: number) =>
      peakBytes(model, tileGrid(rows, cols), visionBatch) - tokenBytes(rows, cols);
    // Planned for a card: the scratch of CPU libraries depends on the processor.
    planningFor({ device: "cuda" }, () => {
      const [four, eight] = [batchBytes(4, 4, 4), batchBytes(8, 4, 4)];
      expect((eight - four) / 4 / 2 ** 20).toBeCloseTo(6.8, 1);
      expect(batchBytes(8, 7, 13)).toBe(eight);
    });
    dispose(model);
  });
});

function encode(model: Model, picture: Picture, visionBatch: number): Tensor {
  const { dtype, device } = model;
  return encodeImage(visionOf(model).weights, visionOf(model).config, picture, {
    dtype,
    device,
    visionBatch,
  });
}

function peakBytes(model: Model, picture: Picture, visionBatch: number): number {
  const device = model.device as "cpu" | "meta";
  const beforeBytes = memoryStats(device).liveBytes;
  resetPeak(device);
  scope(() => encode(model, picture, visionBatch).dispose());
  expect(memoryStats(device).liveBytes).toBe(beforeBytes);
  return memoryStats(device).peakBytes - beforeBytes;
}

function rowsOf(tokens: Tensor): number[][] {
  const width = tokens.shape[1]!;
  const values = [...tokens.toFloat32Array()];
  return Array.from({ length: tokens.shape[0]! }, (_, row) => values.slice(row * width, (row + 1) * width));
}

/** Coarse blobs, so that tiles differ. */
function randomPicture(rows: number, cols: number): HdImage {
  const width = cols * TILE_PIXELS * 3;
  const pixels = new Uint8Array(rows * TILE_PIXELS * width);
  for (let y = 0; y < rows * TILE_PIXELS; y++) {
    for (let x = 0; x < width; x++) {
      pixels[y * width + x] =
        Math.imul((y >> 5) + 7, 0x9e3779b1) ^ (Math.imul((x >> 6) + 3, 0x85ebca6b) >>> 11);
    }
  }
  return { ...tileGrid(rows, cols), pixels, globalView: globalView(pixels, rows, cols, TILE_PIXELS) };
}

function cutTile({ pixels, cols }: HdImage, row: number, col: number): HdImage {
  const line = TILE_PIXELS * 3;
  const cut = new Uint8Array(TILE_PIXELS * line);
  for (let y = 0; y < TILE_PIXELS; y++) {
    const from = ((row * TILE_PIXELS + y) * cols + col) * line;
    cut.set(pixels.subarray(from, from + line), y * line);
  }
  return { ...tileGrid(1, 1), pixels: cut, globalView: globalView(cut, 1, 1, TILE_PIXELS) };
}
