/** A bench's data: one sample with one picture, for lorafit and in the peers' form. */
import { writeSafetensors } from "../src/checkpoint/files/safetensors.ts";
import type { PictureLayout } from "../src/data/pictures/form.ts";
import { tileGrid } from "../src/data/pictures/hdTiles/hdGrid.ts";
import type { HdImage } from "../src/data/pictures/hdTiles/hdImage.ts";
import type { EncodedSample } from "../src/data/samples/dialogue.ts";
import { IGNORE, IMAGE_SLOT } from "../src/data/samples/sample.ts";
import { layoutBatch, type MicroBatch } from "../src/data/stream/batches.ts";
import { START } from "../src/data/stream/packing.ts";
import { pictureFormOf, positionsOf } from "../src/models/families.ts";
import type { ModelConfig } from "../src/models/family.ts";
import { embedText, placeImage_ } from "../src/models/inputRows.ts";
import type { Model } from "../src/models/weights.ts";
import { fromArray } from "../src/torch/create.ts";
import { scope, type Tensor } from "../src/torch/tensor.ts";

export interface SampleSize {
  textTokens: number;
  /** The last so many of the text have labels. */
  labelTokens: number;
  /** Number of ids; the text is drawn from all of them. */
  vocab: number;
}

/** One sample: bos, a picture, and text of which the end has labels. */
export function sampleText({
  textTokens,
  labelTokens,
  vocab,
}: SampleSize): Pick<EncodedSample, "inputIds" | "labels" | "source"> {
  const random = lcg(1);
  const text = Int32Array.from({ length: textTokens - 1 }, () => Math.floor(random() * vocab));
  const inputIds = Int32Array.from([1, IMAGE_SLOT, ...text]);
  const labels = inputIds.map((id, at) => (at >= inputIds.length - labelTokens ? id : IGNORE));
  return { inputIds, labels, source: { file: "bench", index: 0 } };
}

/** A micro-batch of one such sample. */
export function sampleBatch(image: PictureLayout, size: SampleSize): MicroBatch {
  const laidOut = layoutBatch([{ sample: { ...sampleText(size), images: [] }, images: [image] }]);
  return { ...laidOut, epoch: 0, position: START };
}

/** A picture of noise, as the data workers would hand it over. */
export function noiseImage(rows: number, cols: number): HdImage {
  const random = lcg(2);
  return {
    ...tileGrid(rows, cols),
    pixels: Uint8Array.from({ length: rows * cols * 336 * 336 * 3 }, () => Math.floor(random() * 256)),
    globalView: Float32Array.from({ length: 3 * 336 * 336 }, () => random() * 4 - 2),
  };
}

/** Returns a picture of noise of nearly so many tokens, as the data workers would hand it over. */
export function noisePicture(config: ModelConfig, tokens: number): PictureLayout {
  const form = pictureFormOf(config);
  const layout = form.within(tokens);
  if (!layout) throw new Error(`no picture has ${tokens} tokens`);
  const picture = form.black(layout);
  const random = lcg(2);
  for (const values of Object.values(picture) as unknown[]) {
    if (values instanceof Uint8Array) values.set(values.map(() => Math.floor(random() * 256)));
    if (values instanceof Float32Array) values.set(values.map(() => random() * 4 - 2));
  }
  return picture;
}

/** The decoder's input of a micro-batch, (T, C). */
export function embedded(model: Model, batch: MicroBatch): Tensor {
  return scope(() => {
    const hidden = embedText(model, batch.inputIds);
    for (const { start, end, image } of batch.imageSlices) {
      for (const _ of placeImage_(hidden.narrow(0, start, end - start), model, batch.images[image]!, 4));
    }
    return hidden;
  });
}

/** 1 in the rows of pictures. */
export function imageMask({ inputIds, imageSlices }: MicroBatch): Uint8Array {
  const mask = new Uint8Array(inputIds.length);
  for (const { start, end } of imageSlices) mask.fill(1, start, end);
  return mask;
}

/** Writes what a peer needs of a micro-batch. */
export function writeBatch(path: string, model: Model, batch: MicroBatch): void {
  const { targets } = batch;
  const mask = imageMask(batch);
  const { axes, values } = positionsOf(model.config, batch);
  scope(() =>
    writeSafetensors(path, [
      ["embeddings", embedded(model, batch)],
      ["targets", fromArray(targets, [targets.length])],
      ["image_mask", fromArray(mask, [mask.length])],
      ["positions", fromArray(values, [axes, mask.length])],
    ]),
  );
}

/** Runs a step's generator to its end. */
export function runToEnd<T>(steps: Generator<unknown, T>): T {
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** Numbers in 0..1, the same for the same seed. */
function lcg(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
