/** Random micro-batches with pictures of any form. */
import type { PictureLayout } from "../../src/data/pictures/form.ts";
import { IMAGE_SLOT } from "../../src/data/samples/sample.ts";
import { layoutBatch, type MicroBatch } from "../../src/data/stream/batches.ts";
import { lcg } from "./randomModel.ts";

export interface PictureSample<Size> {
  /** Rows and columns, or whatever else says how large each picture is. */
  pictures?: readonly Size[];
  /** Tokens of text: a few before each picture, and the rest at the end. */
  textTokens: number;
  /** Last tokens that are labelled; default: a third of the text. */
  labelTokens?: number;
}

/** Returns a packed micro-batch of random samples; draw: makes a picture of a size. */
export function randomPictureBatch<Size>(
  vocab: number,
  samples: readonly PictureSample<Size>[],
  draw: (size: Size, seed: number) => PictureLayout,
): MicroBatch {
  const random = lcg(5);
  const ids = (length: number): number[] =>
    Array.from({ length }, () => 3 + Math.floor(random() * (vocab - 3)));
  const loaded = samples.map(({ pictures = [], textTokens, labelTokens }, index) => {
    const before = 2;
    const inputIds = Int32Array.from([
      ...pictures.flatMap(() => [...ids(before), IMAGE_SLOT]),
      ...ids(textTokens - before * pictures.length),
    ]);
    const labelled = labelTokens ?? Math.floor(textTokens / 3);
    const labels = inputIds.map((id, at) => (at < inputIds.length - labelled ? -100 : id));
    const images = pictures.map((size, at) => draw(size, 10 * index + at));
    const sample = { source: { file: "random", index }, inputIds, labels };
    return { sample: { ...sample, images: images.map(() => ({ path: "", limit: 0 })) }, images };
  });
  return layoutBatch(loaded) as MicroBatch;
}

/** Returns random bytes. */
export function randomBytes(length: number, seed: number): Uint8Array {
  const random = lcg(seed);
  return Uint8Array.from({ length }, () => Math.floor(random() * 256));
}
