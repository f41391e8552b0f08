/** The limit of pictures cut into tiles with a thumbnail: max_tiles, the most tiles. */
import { count } from "../../../options.ts";
import type { PictureLimit } from "../pictureLimit.ts";

/** Most tiles that can be asked for: beyond any training, and few enough to try all grids. */
export const MOST_TILES = 1024;

/** Returns the limit of a model with so many tiles in its configuration; most: more have no meaning to it. */
export function maxTilesLimit(usualTiles: number, most: number = MOST_TILES) {
  const upTo = (values: readonly number[]): number[] => values.filter((tiles) => tiles <= most);
  return {
    option: "max_tiles",
    flag: "max-tiles",
    key: "maxTiles",
    default: usualTiles,
    schema: count.optional().meta({
      help: "Maximum number of tiles of 448 x 448 pixels that a picture is scaled to, for InternVL (256 tokens a tile and a thumbnail). XComposer2-VL has a single tile of 490 x 490 pixels, 1,225 tokens. Default: as the model's preprocessor_config.json says",
    }),
    help: {
      plan: "Largest number of tiles of a picture, for InternVL. Default: as the model's preprocessor_config.json says",
      init: "Maximum number of tiles of a picture, for InternVL. Default: as the model's preprocessor_config.json says, or the next smaller that fits.",
      serve:
        "Maximum number of tiles of a picture, if the request does not say, for InternVL. Default: as the model's preprocessor_config.json says",
    },
    unit: "tiles",
    inWords: "--max-tiles tiles",
    lower: "a lower --max-tiles for fewer image tiles",
    *below(limit: number) {
      for (let tiles = limit - 1; tiles >= 1; tiles--) yield tiles;
    },
    range: { least: 1, most },
    usual: upTo([1, 4, 6, 12, 24, 40]),
    steps: upTo([1, 2, 3, 4, 6, 8, 9, 12, 16, 18, 20, 24, 30, 36, 40]),
    mostDrawn: 128,
    smaller: [6, 4, 2, 1].filter((tiles) => tiles < usualTiles),
  } as const satisfies PictureLimit;
}

/** The limit as options know it, before a model is read. */
export const MAX_TILES = maxTilesLimit(12);
