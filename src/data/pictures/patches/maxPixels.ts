/** The limit of pictures made of patches: max_pixels, the most pixels that a picture is scaled to. */
import { count } from "../../../options.ts";
import type { PictureLimit } from "../pictureLimit.ts";

/** Pixels that one token of Qwen2.5-VL shows. */
const USUAL_TOKEN_PIXELS = 28 * 28;

/** Most pixels that a search looks at: about 170,000 tokens. */
const MOST_PIXELS = 2 ** 27;

/** Tokens of a picture at the steps of a slider. */
const SLIDER_TOKENS = [64, 256, 512, 1024, 1280, 2048, 4096, 6144, 8192, 12_288, 16_384, 32_768, 65_536];

/** Returns the limit of a model: the pixels that a token shows, and its own limit. */
export function maxPixelsLimit(tokenPixels: number, usualPixels: number) {
  return {
    option: "max_pixels",
    flag: "max-pixels",
    key: "maxPixels",
    default: usualPixels,
    schema: count.optional().meta({
      help: "Maximum number of pixels that a picture is scaled to, for Qwen2.5-VL (784 pixels a token) and Qwen3-VL (1,024). Default: as the model's preprocessor_config.json says",
    }),
    help: {
      plan: "Largest number of pixels of a picture. Default: as the model's preprocessor_config.json says",
      init: "Maximum number of pixels of a picture. Default: as the model's preprocessor_config.json says, or the next smaller that fits.",
      serve:
        "Maximum number of pixels of a picture, if the request does not say. Default: as the model's preprocessor_config.json says",
    },
    unit: "pixels",
    inWords: "--max-pixels",
    lower: "a lower --max-pixels for smaller pictures",
    *below(limit: number) {
      for (let tokens = Math.ceil(limit / tokenPixels) - 1; tokens >= 1; ) {
        yield tokens * tokenPixels;
        tokens = Math.min(tokens - 1, Math.floor(tokens * 0.98));
      }
    },
    range: { least: tokenPixels, most: MOST_PIXELS },
    usual: [256, 1024, 4096, 8192, 16384].map((tokens) => tokens * tokenPixels),
    steps: SLIDER_TOKENS.map((tokens) => tokens * tokenPixels),
    mostDrawn: 2 ** 25,
    smaller: [4096, 1280, 256].map((tokens) => tokens * tokenPixels).filter((pixels) => pixels < usualPixels),
  } as const satisfies PictureLimit;
}

/** The limit as options know it, before a model is read. */
export const MAX_PIXELS = maxPixelsLimit(USUAL_TOKEN_PIXELS, 16_384 * USUAL_TOKEN_PIXELS);
