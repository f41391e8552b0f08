/**
 * The size that a picture is scaled to, in whole tokens, and the layouts that a plan needs. Source:
 * transformers, models/qwen2_vl/image_processing_qwen2_vl.py, smart_resize.
 */
import { formatCount, UserError } from "../../../errors.ts";
import type { PictureSize } from "../decode.ts";
import type { PictureLayout } from "../form.ts";
import type { PatchRules } from "./patchRules.ts";

/** Most times that a picture may be longer along one side than along the other. */
const MOST_RATIO = 200;

/** Tokens of a unit, which the tower encodes `vision_batch` at a time: 1,024 patches. */
const UNIT_TOKENS = 256;

/** A picture as rows and columns of tokens. */
export interface PatchGrid extends PictureLayout {
  rows: number;
  columns: number;
}

/** Returns the layout of so many rows and columns of tokens. */
export function patchGrid(rows: number, columns: number): PatchGrid {
  const tokens = rows * columns;
  return { rows, columns, tokens, units: Math.ceil(tokens / UNIT_TOKENS) };
}

/** Returns the pixels along the side of a token. */
export function tokenSide({ patchPixels, mergeSide }: PatchRules): number {
  return patchPixels * mergeSide;
}

/** Returns the grid of a picture. Throws UserError for a picture that is too long and thin. */
export function gridOf(
  { width, height }: PictureSize,
  limit: number,
  rules: PatchRules,
  name: string,
): PatchGrid {
  const side = tokenSide(rules);
  refuseTinyLimit(limit, side);
  if (Math.max(width, height) / Math.min(width, height) > MOST_RATIO) {
    throw new UserError(
      `${name}: ${width} x ${height} pixels: one side is more than ${MOST_RATIO} times as long as the other.`,
      { fix: "Cut the picture into pieces." },
    );
  }
  const [minPixels, maxPixels] = [Math.min(rules.minPixels, limit), limit];
  const [high, wide] = [roundHalfToEven(height / side) * side, roundHalfToEven(width / side) * side];
  if (high * wide > maxPixels) {
    const shrink = Math.sqrt((height * width) / maxPixels);
    const along = (length: number): number => Math.max(1, Math.floor(length / shrink / side));
    return patchGrid(along(height), along(width));
  }
  if (high * wide < minPixels) {
    const grow = Math.sqrt(minPixels / (height * width));
    const along = (length: number): number => Math.ceil((length * grow) / side);
    return patchGrid(along(height), along(width));
  }
  return patchGrid(high / side, wide / side);
}

function refuseTinyLimit(limit: number, side: number): void {
  if (limit >= side ** 2) return;
  throw new UserError(`--max-pixels ${limit} is less than one token, which shows ${side} x ${side} pixels.`, {
    fix: `Pass --max-pixels ${256 * side ** 2} for up to 256 tokens, or more for documents.`,
  });
}

/**
 * Returns the grid with the most tokens that a limit allows. A side of a thin picture has at least one token,
 * so that it may have more than its pixels allow.
 */
export function largestGrid(limit: number, rules: PatchRules): PatchGrid {
  const side = tokenSide(rules);
  refuseTinyLimit(limit, side);
  const most = squarestGrid(Math.floor(limit / side ** 2));
  const grown = mostGrown(Math.min(rules.minPixels, limit) / side ** 2);
  const thin = Math.max(Math.floor(Math.sqrt((MOST_RATIO * limit) / side ** 2)), grown);
  return thin > most.tokens ? patchGrid(1, thin) : most;
}

/** Returns the most tokens of a picture that is scaled up to `least` tokens, a number with a fraction. */
function mostGrown(least: number): number {
  let most = 1;
  for (let columns = 1; columns <= Math.ceil(Math.sqrt(MOST_RATIO * least)); columns++) {
    const rows = Math.ceil(least / Math.max(columns - 1, Math.sqrt(least)));
    most = Math.max(most, columns * rows);
  }
  return most;
}

/** Returns the grid of exactly so many tokens that is nearest to a square, or of a few less. */
export function squarestGrid(tokens: number): PatchGrid {
  for (let all = tokens; all > 1; all--)
    for (let rows = Math.floor(Math.sqrt(all)); rows >= 1 && all <= MOST_RATIO * rows ** 2; rows--)
      if (all % rows === 0) return patchGrid(rows, all / rows);
  return patchGrid(1, 1);
}

/** Returns a grid of so many units. */
export function gridOfUnits(units: number): PatchGrid {
  return squarestGrid(units * UNIT_TOKENS);
}

/** Rounds as Python does: halves to the even neighbour. */
function roundHalfToEven(value: number): number {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/** Returns a grid in words: "12 x 16 tokens, 448 x 336 pixels". */
export function gridInWords({ rows, columns, tokens }: PatchGrid, side: number): string {
  const [wide, high] = [columns * side, rows * side].map(formatCount);
  return `${rows} x ${columns} = ${formatCount(tokens)} tokens, ${wide} x ${high} pixels`;
}
