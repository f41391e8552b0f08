/** The rules of pictures cut into tiles with a thumbnail, and the reader of preprocessor_config.json. */
import { z } from "zod";
import { type Colours, parseProcessorJson, Three } from "../processorJson.ts";

/** How a model lays out pictures as tiles, or as one. Plain data. */
export interface TileRules {
  form: "internvlTiles";
  /** Pixels along the side of a tile, and of a patch. */
  tilePixels: number;
  patchPixels: number;
  /** Tokens of a tile. */
  tileTokens: number;
  /** Fewest and most tiles of a picture, without the thumbnail. */
  minTiles: number;
  maxTiles: number;
  /** Mean and standard deviation of each channel, in 0..1, that normalise pixels. */
  mean: Colours;
  std: Colours;
  /**
   * Whether a picture is always one tile, scaled by Pillow and whatever its shape, as
   * InternLM-XComposer2-VL reads it.
   */
  isWhole?: boolean;
}

const count = z.int().positive();

const ProcessorJson = z.object({
  size: z.object({ height: count, width: count }).nullish(),
  min_patches: count.nullish(),
  max_patches: count.nullish(),
  image_mean: Three.nullish(),
  image_std: Three.nullish(),
});

/**
 * Returns the rules that a preprocessor_config.json states; `published` gives what it leaves out. json:
 * undefined without the file. Throws UserError that names the first value that cannot be.
 */
export function readTileRules(json: unknown, file: string, published: TileRules): TileRules {
  if (json === undefined) return published;
  const data = parseProcessorJson(ProcessorJson, json, file);
  return {
    ...published,
    tilePixels: data.size?.height ?? published.tilePixels,
    minTiles: data.min_patches ?? published.minTiles,
    maxTiles: data.max_patches ?? published.maxTiles,
    mean: data.image_mean ?? published.mean,
    std: data.image_std ?? published.std,
  };
}
