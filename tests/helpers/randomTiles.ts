/** Random pictures of InternVL's tiles, micro-batches with them, and small models that read them. */
import { thumbnailGrid } from "../../src/data/pictures/internvlTiles/tileGrid.ts";
import type { TiledPicture } from "../../src/data/pictures/internvlTiles/tilePixels.ts";
import type { TileRules } from "../../src/data/pictures/internvlTiles/tileRules.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import {
  type InternVlConfig,
  PRESETS,
  type TileTowerConfig,
  tokensOfTile,
} from "../../src/models/internvl/spec.ts";
import { type PictureSample, randomBytes, randomPictureBatch } from "./randomPictures.ts";

/** Returns the sizes of an InternVL3 with a few thousand parameters, and tiles of 2 x 2 tokens. */
export function smallInternVl(
  overrides: Partial<Omit<InternVlConfig, "vision" | "pictures">> & {
    vision?: Partial<TileTowerConfig>;
  } = {},
): InternVlConfig {
  const { vision: wanted, ...rest } = overrides;
  const published = PRESETS["internvl3-8b"];
  const vision = {
    ...published.vision,
    ...{ hidden: 16, layers: 3, heads: 2, ffn: 20, tilePixels: 56 },
    ...wanted,
  };
  const { tilePixels, patchPixels } = vision;
  return {
    ...published,
    ...{ hidden: 32, layers: 4, heads: 4, kvHeads: 2, headDim: 8, ffn: 48, vocab: 97 },
    ...{ maxPositions: 4096, bosId: 1, eosIds: [2] },
    ...rest,
    vision,
    pictures: { ...published.pictures, tilePixels, patchPixels, tileTokens: tokensOfTile(vision) },
  };
}

/** The sizes in which the tower of the 38B differs in kind. */
export const RMS_TOWER = { norm: "rms_norm", qkNorm: true, qkvBias: false } as const;

/** Returns a picture of random pixels, of so many rows and columns of tiles. */
export function randomTiles(rows: number, columns: number, rules: TileRules, seed = 1): TiledPicture {
  const grid = thumbnailGrid(rows, columns, rules);
  return { ...grid, patches: randomBytes(grid.units * rules.tilePixels ** 2 * 3, seed) };
}

/** Returns a packed micro-batch of random samples; pictures: rows and columns of tiles. */
export function randomTileBatch(
  { pictures: rules, vocab }: InternVlConfig,
  samples: readonly PictureSample<readonly [rows: number, columns: number]>[],
): MicroBatch {
  return randomPictureBatch(vocab, samples, ([rows, columns], seed) =>
    randomTiles(rows, columns, rules, seed),
  );
}
