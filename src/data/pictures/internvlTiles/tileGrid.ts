/**
 * The grid of tiles whose ratio is nearest to a picture's, and the layouts that a plan needs. Source:
 * transformers, models/got_ocr2/image_processing_got_ocr2.py, get_optimal_tiled_canvas.
 */
import { UserError } from "../../../errors.ts";
import type { PictureSize } from "../decode.ts";
import type { PictureLayout } from "../form.ts";
import { MOST_TILES } from "./maxTiles.ts";
import type { TileRules } from "./tileRules.ts";

/** A picture as a grid of tiles. Its units are tiles, the thumbnail among them. */
export interface ThumbnailGrid extends PictureLayout {
  rows: number;
  columns: number;
}

/** Returns the layout of a grid; more than one tile have a thumbnail beside them. */
export function thumbnailGrid(rows: number, columns: number, { tileTokens }: TileRules): ThumbnailGrid {
  const tiles = rows * columns;
  const units = tiles === 1 ? 1 : tiles + 1;
  return { rows, columns, units, tokens: units * tileTokens };
}

/** Returns the grid of a picture of a size. Throws UserError for a limit that cannot be. */
export function gridOf({ width, height }: PictureSize, limit: number, rules: TileRules): ThumbnailGrid {
  checkLimit(limit, rules);
  if (rules.isWhole) return thumbnailGrid(1, 1, rules);
  const ratio = width / height;
  const enoughFor = (columns: number, rows: number): boolean =>
    width * height > 0.5 * rules.tilePixels ** 2 * columns * rows;
  let best = { rows: 1, columns: 1, distance: Number.POSITIVE_INFINITY };
  for (const { rows, columns } of gridsUpTo(limit, Math.min(rules.minTiles, limit))) {
    const distance = Math.abs(ratio - columns / rows);
    const isBetter = distance < best.distance || (distance === best.distance && enoughFor(columns, rows));
    if (isBetter) best = { rows, columns, distance };
  }
  return thumbnailGrid(best.rows, best.columns, rules);
}

function checkLimit(limit: number, { isWhole, tilePixels }: TileRules): void {
  if (isWhole && limit !== 1)
    throw new UserError(`--max-tiles must be 1 for this model (got ${limit}).`, {
      fix: `It scales every picture to ${tilePixels} x ${tilePixels} pixels; leave --max-tiles out.`,
    });
  if (Number.isInteger(limit) && limit >= 1 && limit <= MOST_TILES) return;
  throw new UserError(`--max-tiles must be a whole number from 1 to ${MOST_TILES} (got ${limit}).`, {
    fix: "12 is usual, as in the models' training; fewer tiles need less memory.",
  });
}

/** Lists all grids with so many tiles, from few tiles to many; columns vary last among as many tiles. */
function gridsUpTo(most: number, least: number): { rows: number; columns: number }[] {
  const grids: { rows: number; columns: number }[] = [];
  for (let tiles = least; tiles <= most; tiles++)
    for (let columns = 1; columns <= tiles; columns++)
      if (tiles % columns === 0) grids.push({ columns, rows: tiles / columns });
  return grids;
}

/** Returns the grid with the most tokens that a limit allows. */
export function largestGrid(limit: number, rules: TileRules): ThumbnailGrid {
  checkLimit(limit, rules);
  return thumbnailGrid(limit, 1, rules);
}

/** Returns the grid of a picture with at most so many tokens; undefined if not even one tile fits. */
export function gridOfTokens(tokens: number, rules: TileRules): ThumbnailGrid | undefined {
  const units = Math.floor(tokens / rules.tileTokens);
  if (units < 1) return undefined;
  return thumbnailGrid(rules.isWhole ? 1 : Math.max(1, units - 1), 1, rules);
}

/** Returns a layout of so many units. Two are two tiles without a thumbnail, which no picture has. */
export function gridOfUnits(units: number, rules: TileRules): ThumbnailGrid {
  return { ...thumbnailGrid(Math.max(units - 1, 1), 1, rules), units, tokens: units * rules.tileTokens };
}
