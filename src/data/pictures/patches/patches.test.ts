import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import sharp from "sharp";
import { afterAll, expect, test } from "vitest";
import { limitOf } from "../limits.ts";
import { patchForm } from "./patches.ts";
import { type PatchGrid, patchGrid } from "./patchGrid.ts";
import { patchesOf, rasterOf } from "./patchPixels.ts";
import { type PatchRules, readPatchRules } from "./patchRules.ts";

const RULES: PatchRules = {
  form: "patches",
  patchPixels: 14,
  mergeSide: 2,
  minPixels: 3136,
  maxPixels: 12_845_056,
  mean: [0.5, 0.5, 0.5],
  std: [0.5, 0.5, 0.5],
  windowPixels: 112,
};
const FORM = patchForm(RULES);

const folder = mkdtempSync(join(tmpdir(), "lorafit-patches-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("no picture has more tokens than the largest of its limit", () => {
  const side = fc.integer({ min: 1, max: 3000 });
  const limit = fc.oneof(fc.integer({ min: 784, max: 20_000 }), fc.integer({ min: 784, max: 2 ** 24 }));
  const least = fc.integer({ min: 1, max: 2 ** 20 });
  fc.assert(
    fc.property(side, side, limit, least, (width, height, limit, minPixels) => {
      fc.pre(Math.max(width, height) / Math.min(width, height) <= 200);
      const form = patchForm({ ...RULES, minPixels });
      const { tokens } = form.layout({ width, height }, limit);
      expect(tokens).toBeGreaterThan(0);
      expect(tokens).toBeLessThanOrEqual(form.largest(limit).tokens);
    }),
    { numRuns: 2000 },
  );
});

test("the largest picture exists: scaled to its own size, it keeps its tokens", () => {
  fc.assert(
    fc.property(fc.integer({ min: 784 * 200, max: 2 ** 25 }), (limit) => {
      const { rows, columns, tokens } = FORM.largest(limit) as PatchGrid;
      expect(FORM.layout({ width: columns * 28, height: rows * 28 }, limit).tokens).toBe(tokens);
      expect(tokens * 784).toBeLessThanOrEqual(limit);
      expect(tokens * 784).toBeGreaterThan(0.98 * limit - 784 * 8);
    }),
  );
});

test("a layout within a number of tokens is near it; a layout of units has that many", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 50_000 }), fc.integer({ min: 2, max: 300 }), (tokens, units) => {
      const found = FORM.within(tokens)?.tokens ?? 0;
      expect(found).toBeLessThanOrEqual(tokens);
      expect(found).toBeGreaterThan(tokens - 8 - tokens / 50);
      expect(FORM.ofUnits(units).units).toBe(units);
    }),
  );
  expect(FORM.within(0)).toBeUndefined();
});

test("patches hold every pixel once: put together they are the picture", () => {
  const picture = (rows: number, columns: number) => {
    const size = { width: columns * 28, height: rows * 28 };
    const pixels = Uint8Array.from(
      { length: size.width * size.height * 3 },
      (_, at) => (at * 2_654_435_761) >>> 24,
    );
    return { ...size, pixels };
  };
  for (const [rows, columns] of [
    [1, 1],
    [2, 3],
    [5, 4],
  ] as const) {
    const raster = picture(rows, columns);
    const patches = patchesOf(raster, RULES);
    expect(rasterOf({ ...patchGrid(rows, columns), patches }, RULES)).toEqual(raster);
  }
});

test("a limit below one token, and a picture that is too thin, are refused by name", () => {
  expect(() => FORM.layout({ width: 9, height: 9 }, 783)).toThrow("--max-pixels 783 is less than one token");
  expect(() => FORM.layout({ width: 2010, height: 10 }, 10_000, "a.png")).toThrow("a.png: 2010 x 10 pixels");
});

test("the checkpoint's limit is the default; a limit of another kind of pictures is refused", () => {
  expect(limitOf({}, FORM.limit)).toBe(12_845_056);
  expect(limitOf({ max_pixels: 5000 }, FORM.limit)).toBe(5000);
  for (const [options, fix] of [
    [{ hd_num: 16 }, "Pass --max-pixels instead."],
    [{ hd_num: 25, max_pixels: 5000 }, "Leave it out; --max-pixels limits them."],
  ] as const) {
    const message = "--hd-num does not limit the pictures of this model.";
    expect(() => limitOf(options, FORM.limit)).toThrow(expect.objectContaining({ message, fix }));
  }
});

test("the preview draws windows, and names rows, columns and tokens", async () => {
  const file = join(folder, "page.png");
  await sharp({ create: { width: 600, height: 300, channels: 3, background: "#8ab" } })
    .png()
    .toFile(file);
  const preview = await FORM.preview(file, RULES.maxPixels, "lorafit");
  expect(preview.facts).toEqual({ width: 588, height: 308, grid: { rows: 11, columns: 21 }, tokens: 231 });
  expect(await sharp(await preview.transformed()).metadata()).toMatchObject({ width: 588, height: 308 });
  const drawing = await sharp(await preview.drawing("page.png, 600 x 300"))
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const colourAt = (x: number, y: number) => [
    ...drawing.data.subarray((y * drawing.info.width + x) * 3).subarray(0, 3),
  ];
  const [left, top] = [36, 36 * 2 + 190];
  expect(colourAt(left + 112, top + 50)).toEqual([0xd0, 0x1c, 0x63]); // between two windows
  expect(colourAt(left + 56, top + 50)).toEqual([0x88, 0xaa, 0xbb]); // within a window
});

test("preprocessor_config.json is read in the forms of Qwen2.5-VL and Qwen3-VL; a fault is named", () => {
  const read = (json: unknown) => readPatchRules(json, "preprocessor_config.json", RULES);
  expect(read(undefined)).toEqual(RULES);
  expect(read({ min_pixels: 1000, max_pixels: 2000 })).toMatchObject({ minPixels: 1000, maxPixels: 2000 });
  expect(read({ size: { shortest_edge: 1000, longest_edge: 2000 }, patch_size: 16 })).toMatchObject({
    ...{ minPixels: 1000, maxPixels: 2000, patchPixels: 16, windowPixels: 112 },
  });
  expect(() => read({ max_pixels: "many" })).toThrow("preprocessor_config.json: max_pixels");
});
