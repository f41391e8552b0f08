/** Returns the golden cases as micro-batches, read the way users' data is read. */

import { loadHdImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import { HD_TILES } from "../../src/data/pictures/hdTiles/hdTiles.ts";
import { readDataset } from "../../src/data/samples/samples.ts";
import { prepareSamples } from "../../src/data/samples/validate.ts";
import { layoutBatch, type MicroBatch } from "../../src/data/stream/batches.ts";
import { START } from "../../src/data/stream/packing.ts";
import { golden } from "./shared.ts";

export const GOLDEN_CASES = [
  "c1_text",
  "c2_img_1x1",
  "c3_img_2x3",
  "c4_img_3x1",
  "c5_two_images",
  "c6_truncated",
] as const;
export type GoldenCase = (typeof GOLDEN_CASES)[number];

/**
 * Files of all samples as training data, in order. The reference's own file lacks the last sample, because
 * the reference skips truncated samples.
 */
export const GOLDEN_DATA = ["cases.jsonl", "truncated.jsonl"].map((file) => golden(`tiny_cases/${file}`));

/** Returns one packed micro-batch of the named cases. */
export async function goldenBatch(...names: GoldenCase[]): Promise<MicroBatch> {
  const { samples } = await prepareSamples(readDataset(GOLDEN_DATA), {
    tokenizer: undefined,
    vocabSize: 1024,
    pictures: HD_TILES,
    pictureLimit: 16,
    maxLength: 16384,
    imageCompat: "official",
    purpose: "train",
    skipBad: false,
  });
  const loaded = names.map(async (name) => {
    const sample = samples[GOLDEN_CASES.indexOf(name)]!;
    const images = sample.images.map(({ path, limit }) => loadHdImage(path, limit, "official"));
    return { sample, images: await Promise.all(images) };
  });
  return { ...layoutBatch(await Promise.all(loaded)), epoch: 0, position: START };
}
