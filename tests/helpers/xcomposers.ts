/** Small models of the XComposer line other than 4KHD, and micro-batches with their pictures. */
import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { XCOMPOSER2_5_RULES } from "../../src/data/pictures/hdTiles/hdRules.ts";
import type { TileRules } from "../../src/data/pictures/internvlTiles/tileRules.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { PRESETS, type XComposerConfig, xcomposerRules } from "../../src/models/xcomposer2/spec.ts";
import { lcg, smallConfig } from "./randomModel.ts";
import { type PictureSample, randomBytes, randomPictureBatch } from "./randomPictures.ts";
import { randomTiles } from "./randomTiles.ts";

const PLORA = { rank: 5, scale: 1 };
const EVERYWHERE = {
  "attention.wqkv": PLORA,
  "attention.wo": PLORA,
  "feed_forward.w1": PLORA,
  "feed_forward.w2": PLORA,
  "feed_forward.w3": PLORA,
};
const TOWER = { hidden: 16, layers: 2, heads: 2, ffn: 24 };

/** Returns the sizes of an XComposer2-VL with pictures of 4 x 4 patches. */
export function smallWholePictures(overrides: Partial<XComposerConfig> = {}): XComposerConfig {
  const { vision } = PRESETS["xcomposer2-vl-7b"];
  return smallConfig({
    ...{ layers: 4, plora: EVERYWHERE, vision: { ...vision, ...TOWER, imagePixels: 56 } },
    ...overrides,
  });
}

/** Returns a packed micro-batch for it; pictures: nothing is to be said of each. */
export function wholePictureBatch(
  config: XComposerConfig,
  samples: readonly PictureSample<undefined>[],
): MicroBatch {
  const rules = xcomposerRules(config) as TileRules;
  return randomPictureBatch(config.vocab, samples, (_, seed) => randomTiles(1, 1, rules, seed));
}

/** Returns the sizes of an XComposer2.5. Its tiles have the 400 tokens of the published model. */
export function small2_5(): XComposerConfig {
  const { vision } = PRESETS["xcomposer2.5-7b"];
  return smallConfig({ layers: 4, plora: EVERYWHERE, vision: { ...vision, ...TOWER, layers: 1 } });
}

/** Returns a packed micro-batch for it; pictures: rows and columns of tiles. */
export function batch2_5(
  { vocab, vision }: XComposerConfig,
  samples: readonly PictureSample<readonly [rows: number, cols: number]>[],
): MicroBatch {
  const side = vision.imagePixels;
  return randomPictureBatch(vocab, samples, ([rows, cols], seed) => {
    const random = lcg(seed);
    const picture = {
      ...tileGrid(rows, cols, XCOMPOSER2_5_RULES),
      pixels: randomBytes(rows * cols * side ** 2 * 3, seed),
      globalView: Float32Array.from({ length: 3 * side ** 2 }, () => random() * 4 - 2),
    };
    return picture;
  });
}
