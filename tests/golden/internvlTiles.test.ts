/** The pictures of InternVL, to the value of the official processors. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import type { ImageCompat } from "../../src/data/pictures/imageCompat.ts";
import { gridOf } from "../../src/data/pictures/internvlTiles/tileGrid.ts";
import {
  loadTiles,
  type TiledPicture,
  tileRaster,
} from "../../src/data/pictures/internvlTiles/tilePixels.ts";
import { readTileRules, type TileRules } from "../../src/data/pictures/internvlTiles/tileRules.ts";
import { fastValue, type Normalise, slowValue } from "../helpers/processorValues.ts";
import { golden } from "../helpers/shared.ts";

interface Case {
  name: string;
  limits: { size: number; min_patches?: number; max_patches?: number };
  columns: number;
  tiles: number;
  tokens: number;
  sha256_fast: string;
  sha256_slow: string;
  fast_vs_slow_uint8_pillow_12: object;
  fast_vs_slow_uint8_pillow_13: object;
}

const PUBLISHED: TileRules = {
  form: "internvlTiles",
  tilePixels: 448,
  patchPixels: 14,
  tileTokens: 256,
  minTiles: 1,
  maxTiles: 12,
  mean: [0.485, 0.456, 0.406],
  std: [0.229, 0.224, 0.225],
};

const FOLDER = golden("internvl_hf/preprocessing");

const { cases } = readJson<{ cases: Case[] }>(`${FOLDER}/manifest.json`);
const CASES = cases.map((one) => {
  const { size, ...limits } = one.limits;
  const json = { ...limits, size: { height: size, width: size } };
  const rules = readTileRules(json, "preprocessor_config.json", {
    ...PUBLISHED,
    tileTokens: (size / 28) ** 2,
  });
  return { ...one, file: `${FOLDER}/${one.name}.png`, rules };
});

test.each(CASES)("$name: tiles equal the fast processor's to the last bit", async (one) => {
  const picture = await loaded(one, "lorafit");
  expect(picture).toMatchObject({ columns: one.columns, units: one.tiles, tokens: one.tokens });
  expect(digest(picture, one.rules, fastValue)).toBe(one.sha256_fast);
});

const PILLOW_12 = CASES.filter(
  (one) =>
    JSON.stringify(one.fast_vs_slow_uint8_pillow_12) === JSON.stringify(one.fast_vs_slow_uint8_pillow_13),
);

test.each(PILLOW_12)("$name: --image-compat pil equals Pillow's processor", async (one) => {
  expect(digest(await loaded(one, "pil"), one.rules, slowValue)).toBe(one.sha256_slow);
});

type CanvasCase = { w: number; h: number } & Record<string, [columns: number, rows: number, tiles: number]>;
const CANVASES = readJson<{ cases: CanvasCase[] }>(`${FOLDER}/canvas.json`).cases;

test.each(CANVASES)("a picture of $w x $h has the official grid under every limit", ({ w, h, ...limits }) => {
  const found = Object.keys(limits).map((limit) => {
    const { columns, rows, units } = gridOf({ width: w, height: h }, Number(limit), PUBLISHED);
    return [limit, [columns, rows, units]];
  });
  expect(found.length).toBeGreaterThan(5);
  expect(Object.fromEntries(found)).toEqual(limits);
});

type Loaded = { file: string; rules: TileRules };

function loaded({ file, rules }: Loaded, compat: ImageCompat) {
  return loadTiles(file, rules.maxTiles, rules, { compat });
}

/** Returns the SHA-256 of the processor's values: (tiles, channels, rows, columns), float32. */
function digest(picture: TiledPicture, rules: TileRules, normalise: Normalise): string {
  const area = rules.tilePixels ** 2;
  const tables = [0, 1, 2].map((channel) =>
    Float32Array.from({ length: 256 }, (_, value) => normalise(value, channel, rules)),
  );
  const hash = createHash("sha256");
  for (let tile = 0; tile < picture.units; tile++) {
    const { pixels } = tileRaster(picture, tile, rules);
    for (const [channel, table] of tables.entries())
      hash.update(
        Float32Array.from({ length: area }, (_, at) => table[pixels[3 * at + channel] as number] as number),
      );
  }
  return hash.digest("hex");
}

function readJson<T>(file: string): T {
  return JSON.parse(readFileSync(file, "utf8")) as T;
}
