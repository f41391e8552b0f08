/** The sizes that the official model was trained with. A larger one can be computed, but nobody knows how well the model does there. */
import type { ModelConfig } from "../family.ts";

export interface TrainedSizes {
  /** Tokens of a sample. */
  maxLength: number;
  /** Tiles of a picture. */
  hdNum: number;
}

/** Most tiles of a picture in the training of InternLM-XComposer2-4KHD: HD-55. Source: arXiv:2404.06512, section 3. */
const TRAINED_TILES = 55;

/** Returns the largest sizes that a checkpoint was trained with. */
export function trainedSizes({ maxPositions }: Pick<ModelConfig, "maxPositions">): TrainedSizes {
  return { maxLength: maxPositions, hdNum: TRAINED_TILES };
}
