/**
 * InternLM-XComposer2-VL: the CLIP tower over a picture as one square. Each patch is a token after the
 * projector. Source: its official code, img2emb and build_mlp.py.
 */
import { PIXEL_MEAN, PIXEL_STD } from "../../data/pictures/hdTiles/globalView.ts";
import type { ThumbnailGrid } from "../../data/pictures/internvlTiles/tileGrid.ts";
import type { TiledPicture } from "../../data/pictures/internvlTiles/tilePixels.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import type { EncodeOptions } from "../family.ts";
import { normalisedPatches } from "../patchPixels.ts";
import type { XComposerConfig } from "./spec.ts";
import { encodeSquares, project } from "./vision.ts";
import type { VisionWeights } from "./visionWeights.ts";

/** A picture, or only its layout: a plan on meta needs no pixels. */
export type WholePicture = ThumbnailGrid & Partial<Pick<TiledPicture, "patches">>;

/** Writes image tokens into rows of a larger tensor, (P, C). Yields once, with no scope open. */
export function* encodeWholeInto(
  tokens: Tensor,
  weights: VisionWeights,
  { vision }: XComposerConfig,
  { patches }: WholePicture,
  options: EncodeOptions,
): Generator<{ done: number; total: number }, void> {
  const { start, end } = options.units ?? { start: 0, end: 1 };
  if (start === end) return; // another rank's
  const P = (vision.imagePixels / vision.patchPixels) ** 2;
  const inputs = 3 * vision.patchPixels ** 2;
  const colours = { mean: PIXEL_MEAN, std: PIXEL_STD };
  const pixels = (): Tensor =>
    scope(() =>
      normalisedPatches(patches, [P, inputs], colours, options)
        .to({ dtype: options.dtype })
        .view([1, P, inputs]),
    );
  scope(() => {
    const features = encodeSquares(weights, vision, 1, pixels, options);
    tokens.copy_(project(features.reshape([P, vision.hidden]), weights));
  });
  yield { done: 1, total: 1 };
}
