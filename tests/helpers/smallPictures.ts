/**
 * A model whose pictures have few patches and whose heads several ranks can share, and micro-batches for it.
 */
import type { HdImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import type { EncodedSample } from "../../src/data/samples/dialogue.ts";
import { IGNORE, IMAGE_SLOT } from "../../src/data/samples/sample.ts";
import { layoutBatch, type MicroBatch } from "../../src/data/stream/batches.ts";
import { START } from "../../src/data/stream/packing.ts";
import { lcg, smallConfig } from "./randomModel.ts";

/** kv heads that 2, 3 and 4 ranks share, each with two groups. */
export const config = smallConfig({
  ...{ layers: 4, kvHeads: 24, heads: 48, headDim: 4 },
  vision: { hidden: 16, layers: 1, heads: 2, ffn: 24, imagePixels: 56, patchPixels: 14, eps: 1e-5 },
});
/** A picture of 2 x 1 tiles of 4 x 4 patches: its tokens and units. */
const PICTURE = { rows: 2, cols: 1, tokens: 19, units: 3 };

/** Returns packed samples: pictures, then text whose last tokens have labels. */
export function batchOf(
  samples: readonly { textTokens: number; images?: number; labelTokens?: number }[],
  seed = 3,
): MicroBatch {
  const random = lcg(seed);
  const loaded = samples.map(({ textTokens, images = 0, labelTokens = Math.ceil(textTokens / 3) }, index) => {
    const text = Array.from({ length: textTokens }, () => Math.floor(random() * config.vocab));
    const inputIds = [config.bosId, ...new Array<number>(images).fill(IMAGE_SLOT), ...text];
    const labels = inputIds.map((id, at) => (at < inputIds.length - labelTokens ? IGNORE : id));
    const sample = { source: { file: "random", index }, inputIds, labels } as unknown as EncodedSample;
    return { sample, images: Array.from({ length: images }, () => randomPicture(random)) };
  });
  return { ...layoutBatch(loaded), epoch: 0, position: START };
}

function randomPicture(random: () => number): HdImage {
  const { imagePixels } = config.vision;
  const picture = {
    ...PICTURE,
    pixels: Uint8Array.from({ length: 2 * imagePixels ** 2 * 3 }, () => Math.floor(random() * 256)),
    globalView: Float32Array.from({ length: imagePixels ** 2 * 3 }, () => random() * 4 - 2),
  };
  return picture as unknown as HdImage;
}
