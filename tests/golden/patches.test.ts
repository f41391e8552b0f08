/** The pictures of Qwen2.5-VL and Qwen3-VL, to the value of the official processors. */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import sharp from "sharp";
import { expect, test } from "vitest";
import { imageSize } from "../../src/data/pictures/decode.ts";
import type { ImageCompat } from "../../src/data/pictures/imageCompat.ts";
import { gridOf } from "../../src/data/pictures/patches/patchGrid.ts";
import { loadPatches, rasterOf } from "../../src/data/pictures/patches/patchPixels.ts";
import { type PatchRules, readPatchRules } from "../../src/data/pictures/patches/patchRules.ts";
import { fastValue, type Normalise, slowValue } from "../helpers/processorValues.ts";
import { golden } from "../helpers/shared.ts";

interface Case {
  name: string;
  limits: { min_pixels?: number; max_pixels?: number; size?: object };
  grid_thw: [time: number, rows: number, columns: number];
  tokens: number;
  resized_w: number;
  resized_h: number;
  sha256_fast: string;
  sha256_slow: string;
  fast_vs_slow_uint8_pillow_12: object;
  fast_vs_slow_uint8_pillow_13: object;
}

const QWEN2_5: PatchRules = {
  form: "patches",
  patchPixels: 14,
  mergeSide: 2,
  minPixels: 3136,
  maxPixels: 12_845_056,
  mean: [0.48145466, 0.4578275, 0.40821073],
  std: [0.26862954, 0.26130258, 0.27577711],
};
const QWEN3: PatchRules = {
  ...QWEN2_5,
  patchPixels: 16,
  minPixels: 4096,
  maxPixels: 16_777_216,
  mean: [0.5, 0.5, 0.5],
  std: [0.5, 0.5, 0.5],
};

const CASES = Object.entries({ qwen2_5_vl: QWEN2_5, qwen3_vl: QWEN3 }).flatMap(([family, published]) => {
  const folder = golden(`${family}/preprocessing`);
  const { cases } = JSON.parse(readFileSync(`${folder}/manifest.json`, "utf8")) as { cases: Case[] };
  return cases.map((one) => {
    const rules = readPatchRules(one.limits, "preprocessor_config.json", published);
    return { ...one, family, file: `${folder}/${one.name}.png`, rules };
  });
});

test.each(CASES)("$family, $name: pixels equal the fast processor's to the last bit", async (one) => {
  const { file, rules, grid_thw, tokens, resized_w, resized_h } = one;
  const picture = await loaded(file, rules, "lorafit");
  expect(picture).toMatchObject({ rows: grid_thw[1] / 2, columns: grid_thw[2] / 2, tokens });
  expect(rasterOf(picture, rules)).toMatchObject({ width: resized_w, height: resized_h });
  expect(digest(picture.patches, rules, fastValue)).toBe(one.sha256_fast);
});

const PILLOW_12 = CASES.filter(
  (one) =>
    JSON.stringify(one.fast_vs_slow_uint8_pillow_12) === JSON.stringify(one.fast_vs_slow_uint8_pillow_13),
);

test.each(PILLOW_12)("$family, $name: --image-compat pil equals Pillow's processor", async (one) => {
  const { patches } = await loaded(one.file, one.rules, "pil");
  expect(digest(patches, one.rules, slowValue)).toBe(one.sha256_slow);
});

const MODES = JSON.parse(readFileSync(golden("qwen2_5_vl/preprocessing/modes.json"), "utf8")) as {
  cases: { name: string; orientation?: number }[];
};

test.each(MODES.cases.filter(({ orientation }) => !orientation))(
  "$name is laid over white",
  async ({ name }) => {
    const picture = await loaded(golden(`qwen2_5_vl/preprocessing/${name}.png`), QWEN2_5, "lorafit");
    const expected = await sharp(golden(`qwen2_5_vl/preprocessing/${name}.resized.png`))
      .removeAlpha()
      .raw()
      .toBuffer();
    expect(Buffer.compare(rasterOf(picture, QWEN2_5).pixels, expected)).toBe(0);
  },
);

test("a photo is turned upright, except with --image-compat official", async () => {
  const file = golden("qwen2_5_vl/preprocessing/m6_exif.jpg");
  const gridAs = async (compat: ImageCompat) =>
    gridOf(await imageSize(file, compat), QWEN2_5.maxPixels, QWEN2_5, file);
  expect(await gridAs("lorafit")).toMatchObject({ rows: 3, columns: 2 });
  expect(await gridAs("official")).toMatchObject({ rows: 2, columns: 3 });
});

function loaded(file: string, rules: PatchRules, compat: ImageCompat) {
  return loadPatches(file, rules.maxPixels, rules, { compat });
}

/** Returns the SHA-256 of the processor's values: (patches, channels, 2 frames, rows, columns), float32. */
function digest(patches: Uint8Array, rules: PatchRules, normalise: Normalise): string {
  const area = rules.patchPixels ** 2;
  const table = [0, 1, 2].map((channel) =>
    Float32Array.from({ length: 256 }, (_, value) => normalise(value, channel, rules)),
  );
  const values = new Float32Array(2 * patches.length);
  for (let at = 0; at < patches.length; at++) {
    const [plane, pixel] = [Math.floor(at / area), at % area];
    const value = table[plane % 3]?.[patches[at] as number] as number;
    values[2 * plane * area + pixel] = value;
    values[(2 * plane + 1) * area + pixel] = value;
  }
  return createHash("sha256").update(values).digest("hex");
}
