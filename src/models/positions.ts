/** Positions of the rows of a micro-batch. */
import type { MicroBatch } from "../data/stream/batches.ts";
import { oneAxis, type Positions } from "../nn/attention/rope.ts";

/** The part of a micro-batch that positions depend on. */
export type PlacedRows = Pick<MicroBatch, "sampleTokens" | "imageSlices" | "images">;

/** Counts the rows of each sample from 0. */
export function countedPositions({ sampleTokens }: PlacedRows): Positions {
  const values = new Int32Array(sampleTokens.reduce((sum, tokens) => sum + tokens, 0));
  let row = 0;
  for (const tokens of sampleTokens) for (let at = 0; at < tokens; at++) values[row++] = at;
  return oneAxis(values);
}

/** Returns the position of the first token after a sample's rows: beyond all of them, along every axis. */
export function positionAfter({ values }: Positions): number {
  return values.reduce((most, position) => Math.max(most, position), -1) + 1;
}

/** Returns the position of one row of text, the same along every axis. */
export function positionOfText(position: number, { axes }: Pick<Positions, "axes">): Positions {
  return { axes, values: new Int32Array(axes).fill(position) };
}
