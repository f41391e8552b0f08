/**
 * The order in which the tower holds a picture's tokens: window after window, so that the tokens of a window
 * are neighbours. Windows at the right and bottom edges may be smaller. Windows of one size stand together,
 * and are computed some at a time. No result depends on the order of windows.
 */
import type { TokenGrid } from "../positions.ts";

/** Windows of one size that follow on one another. */
export interface WindowRun {
  /** The first token, in window order. */
  start: number;
  windows: number;
  tokensPerWindow: number;
}

export interface WindowOrder {
  runs: readonly WindowRun[];
  /** Tokens in window order: the place of each in the picture, row by row. */
  places: Int32Array;
}

/** Returns the windows of a picture; side: tokens along the side of a whole window. */
export function windowOrder({ rows, columns }: TokenGrid, side: number): WindowOrder {
  const [down, across] = [spans(rows, side), spans(columns, side)];
  const places = new Int32Array(rows * columns);
  const runs: WindowRun[] = [];
  let at = 0;
  for (const vertical of down)
    for (const horizontal of across) {
      const start = at;
      for (let top = vertical.start; top < vertical.end; top += vertical.size)
        for (let left = horizontal.start; left < horizontal.end; left += horizontal.size)
          for (let row = top; row < top + vertical.size; row++)
            for (let column = left; column < left + horizontal.size; column++)
              places[at++] = row * columns + column;
      const tokensPerWindow = vertical.size * horizontal.size;
      runs.push({ start, windows: (at - start) / tokensPerWindow, tokensPerWindow });
    }
  return { runs, places };
}

/** Returns where each token of the picture, row by row, stands in window order. */
export function inverseOf(places: Int32Array): Int32Array {
  const inverse = new Int32Array(places.length);
  for (const [at, place] of places.entries()) inverse[place] = at;
  return inverse;
}

/** Returns the part of a side in whole windows, and the rest, as far as there are any. */
function spans(length: number, side: number): { start: number; end: number; size: number }[] {
  const whole = length - (length % side);
  const all = [
    { start: 0, end: whole, size: side },
    { start: whole, end: length, size: length - whole },
  ];
  return all.filter(({ start, end }) => start < end);
}
