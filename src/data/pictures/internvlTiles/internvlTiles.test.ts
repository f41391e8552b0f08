import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import sharp from "sharp";
import { afterAll, expect, test } from "vitest";
import { tileForm } from "./internvlTiles.ts";
import { canvasRaster, loadTiles } from "./tilePixels.ts";
import { readTileRules, type TileRules } from "./tileRules.ts";

const RULES: TileRules = {
  form: "internvlTiles",
  tilePixels: 56,
  patchPixels: 14,
  tileTokens: 4,
  minTiles: 1,
  maxTiles: 12,
  mean: [0.5, 0.5, 0.5],
  std: [0.5, 0.5, 0.5],
};
const FORM = tileForm(RULES);

const folder = mkdtempSync(join(tmpdir(), "lorafit-tiles-"));
afterAll(() => rmSync(folder, { recursive: true }));

test("no picture has more tokens than the largest of its limit, which a long picture has", () => {
  const side = fc.integer({ min: 1, max: 5000 });
  fc.assert(
    fc.property(side, side, fc.integer({ min: 1, max: 40 }), (width, height, limit) => {
      const largest = FORM.largest(limit).tokens;
      expect(FORM.layout({ width, height }, limit).tokens).toBeLessThanOrEqual(largest);
      expect(FORM.layout({ width: 20, height: 20 * limit }, limit).tokens).toBe(largest);
    }),
  );
});

test("a layout within a number of tokens is near it; a layout of units has that many", () => {
  fc.assert(
    fc.property(fc.integer({ min: 4, max: 2000 }), fc.integer({ min: 2, max: 300 }), (tokens, units) => {
      const found = FORM.within(tokens)?.tokens ?? 0;
      expect(found).toBeLessThanOrEqual(tokens);
      expect(found).toBeGreaterThan(tokens - 2 * RULES.tileTokens);
      expect(FORM.ofUnits(units)).toMatchObject({ units, tokens: units * RULES.tileTokens });
    }),
  );
  expect(FORM.within(3)).toBeUndefined();
});

test("a black picture has the pixels of all tiles, the thumbnail among them", () => {
  const layout = FORM.layout({ width: 300, height: 100 }, 4);
  const black = FORM.black(layout) as unknown as { patches: Uint8Array };
  expect(layout).toMatchObject({ rows: 1, columns: 3, units: 4, tokens: 16 });
  expect(black.patches).toHaveLength(4 * 56 * 56 * 3);
});

test("tiles put together are the scaled picture", async () => {
  const file = join(folder, "noise.png");
  const pixels = Uint8Array.from({ length: 112 * 168 * 3 }, (_, at) => Math.imul(at, 2_654_435_761) >>> 24);
  await sharp(pixels, { raw: { width: 112, height: 168, channels: 3 } })
    .png()
    .toFile(file);
  const picture = await loadTiles(file, 6, RULES, { compat: "lorafit" });
  expect(picture).toMatchObject({ rows: 3, columns: 2 }); // its own size, so that nothing is scaled
  expect(canvasRaster(picture, RULES)).toEqual({ width: 112, height: 168, pixels });
});

test("the preview numbers tiles, and names rows, columns and tokens", async () => {
  const file = join(folder, "page.png");
  await sharp({ create: { width: 600, height: 300, channels: 3, background: "#8ab" } })
    .png()
    .toFile(file);
  const preview = await FORM.preview(file, 2, "lorafit");
  expect(preview.facts).toEqual({
    width: 112,
    height: 56,
    grid: { rows: 1, columns: 2 },
    tiles: 3,
    tokens: 12,
  });
  expect(await sharp(await preview.transformed()).metadata()).toMatchObject({ width: 112, height: 56 });
  const drawing = await sharp(await preview.drawing("page.png, 600 x 300"))
    .removeAlpha()
    .raw()
    .toBuffer({ resolveWithObject: true });
  const colourAt = (x: number, y: number) => [
    ...drawing.data.subarray((y * drawing.info.width + x) * 3).subarray(0, 3),
  ];
  const [left, top] = [36, 2 * 36 + 224];
  expect(colourAt(left + 56, top + 50)).toEqual([0xd0, 0x1c, 0x63]); // between two tiles
  expect(colourAt(left + 30, top + 50)).toEqual([0x88, 0xaa, 0xbb]); // within a tile
});

test("preprocessor_config.json is read; a limit that cannot be is refused", () => {
  const read = (json: unknown) => readTileRules(json, "preprocessor_config.json", RULES);
  expect(read(undefined)).toEqual(RULES);
  expect(read({ size: { height: 112, width: 112 }, max_patches: 6 })).toMatchObject({
    ...{ tilePixels: 112, maxTiles: 6, minTiles: 1 },
  });
  expect(() => read({ max_patches: -1 })).toThrow("preprocessor_config.json: max_patches");
  expect(() => FORM.layout({ width: 1, height: 1 }, 0)).toThrow("--max-tiles must be a whole number");
});
