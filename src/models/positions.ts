/** Positions of the rows of a micro-batch. */
import type { MicroBatch } from "../data/stream/batches.ts";
import { oneAxis, type Positions } from "../nn/attention/rope.ts";
import type { Rows } from "../nn/rows.ts";

/** The part of a micro-batch that positions depend on. */
export type PlacedRows = Pick<MicroBatch, "sampleTokens" | "imageSlices" | "images">;

/** Counts the rows of each sample from 0. */
export function countedPositions({ sampleTokens }: PlacedRows): Positions {
  const values = new Int32Array(sampleTokens.reduce((sum, tokens) => sum + tokens, 0));
  let row = 0;
  for (const tokens of sampleTokens) for (let at = 0; at < tokens; at++) values[row++] = at;
  return oneAxis(values);
}

/** Rows and columns of a picture's tokens. */
export interface TokenGrid {
  rows: number;
  columns: number;
}

/**
 * Returns positions in time, height and width. Text counts along all axes alike. A picture that begins at p
 * stays at time p, and its tokens have their row and column from p on; the text after it is beyond both.
 */
export function placedPositions({ sampleTokens, imageSlices, images }: PlacedRows): Positions {
  const total = sampleTokens.reduce((sum, tokens) => sum + tokens, 0);
  const values = new Int32Array(3 * total);
  const place = (row: number, time: number, height: number, width: number): void => {
    values[row] = time;
    values[total + row] = height;
    values[2 * total + row] = width;
  };
  const slices = new Map(imageSlices.map((slice) => [slice.start, slice]));
  let row = 0;
  for (const tokens of sampleTokens) {
    const end = row + tokens;
    for (let next = 0; row < end; ) {
      const slice = slices.get(row);
      if (!slice) {
        place(row++, next, next, next);
        next++;
        continue;
      }
      const { rows, columns } = images[slice.image] as unknown as TokenGrid;
      for (; row < slice.end; row++) {
        const token = row - slice.start;
        place(row, next, next + Math.floor(token / columns), next + (token % columns));
      }
      next += Math.max(rows, columns);
    }
  }
  return { axes: 3, values };
}

/** Returns the position of the first token after a sample's rows: beyond all of them, along every axis. */
export function positionAfter({ values }: Positions): number {
  return values.reduce((most, position) => Math.max(most, position), -1) + 1;
}

/** Returns the position of one row of text, the same along every axis. */
export function positionOfText(position: number, { axes }: Pick<Positions, "axes">): Positions {
  return { axes, values: new Int32Array(axes).fill(position) };
}

/** Positions of a prompt's rows, and where its answer begins. */
export interface PromptPositions {
  prompt: Positions;
  /** Rows of the prompt. */
  tokens: number;
}

/** Returns the positions of some rows of a prompt with its answer. */
export function positionsAt({ prompt, tokens }: PromptPositions, { start, end }: Rows): Positions {
  const { axes, values } = prompt;
  const shift = end > tokens ? positionAfter(prompt) - tokens : 0;
  const count = end - start;
  const at = Int32Array.from({ length: axes * count }, (_, index) => {
    const row = start + (index % count);
    return row < tokens ? values[Math.floor(index / count) * tokens + row]! : row + shift;
  });
  return { axes, values: at };
}

/** Joins the positions of several sequences, in their order. */
export function joinedPositions(parts: readonly Positions[]): Positions {
  const axes = parts[0]?.axes ?? 1;
  const along = (axis: number): number[] =>
    parts.flatMap(({ values }) => {
      const count = values.length / axes;
      return [...values.subarray(axis * count, (axis + 1) * count)];
    });
  return { axes, values: Int32Array.from(Array.from({ length: axes }, (_, axis) => along(axis)).flat()) };
}
