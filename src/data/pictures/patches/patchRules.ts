/**
 * The rules of pictures made of patches, and the reader of a checkpoint's preprocessor_config.json, which
 * states them.
 */
import { z } from "zod";
import { type Colours, parseProcessorJson, Three } from "../processorJson.ts";

/** How a model of the Qwen-VL line lays out pictures. Plain data. */
export interface PatchRules {
  form: "patches";
  /** Pixels along the side of a patch. */
  patchPixels: number;
  /** Patches along the side of a token. */
  mergeSide: number;
  /** Fewest and most pixels that a picture is scaled to. */
  minPixels: number;
  maxPixels: number;
  /** Mean and standard deviation of each channel, in 0..1, that normalise pixels. */
  mean: Colours;
  std: Colours;
  /** Pixels along the side of an attention window, for drawings; undefined if the tower has none. */
  windowPixels?: number;
}

const pixels = z.int().positive();

const ProcessorJson = z.object({
  patch_size: pixels.nullish(),
  merge_size: pixels.nullish(),
  temporal_patch_size: z.literal(2).nullish(),
  min_pixels: pixels.nullish(),
  max_pixels: pixels.nullish(),
  size: z.object({ shortest_edge: pixels.nullish(), longest_edge: pixels.nullish() }).nullish(),
  image_mean: Three.nullish(),
  image_std: Three.nullish(),
});

/**
 * Returns the rules that a preprocessor_config.json states; `published` gives what it leaves out. json:
 * undefined without the file. Throws UserError that names the first value that cannot be.
 */
export function readPatchRules(json: unknown, file: string, published: PatchRules): PatchRules {
  if (json === undefined) return published;
  const data = parseProcessorJson(ProcessorJson, json, file);
  return {
    form: "patches",
    patchPixels: data.patch_size ?? published.patchPixels,
    mergeSide: data.merge_size ?? published.mergeSide,
    minPixels: data.min_pixels ?? data.size?.shortest_edge ?? published.minPixels, // edges that count pixels
    maxPixels: data.max_pixels ?? data.size?.longest_edge ?? published.maxPixels,
    mean: data.image_mean ?? published.mean,
    std: data.image_std ?? published.std,
    ...(published.windowPixels !== undefined && { windowPixels: published.windowPixels }),
  };
}
