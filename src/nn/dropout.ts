/**
 * Dropout that no memory policy can change: masks are drawn for blocks of 512 rows from generators seeded by what is dropped, so that
 * recomputation, tiles and head groups see the same one.
 */

import { empty, fromArray } from "../torch/create.ts";
import { createGenerator } from "../torch/random.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { forEachKind, type Kind, kindsOf, kindsOfTiles, type Rows, rowCount, rowsOf } from "./rows.ts";

/** Rows that share a generator; tiles of rows are multiples of it. */
export const DROPOUT_BLOCK_ROWS = 512;

/** `seed` names run, micro-batch, layer and module. */
export interface Dropout {
  probability: number;
  seed: bigint;
}

/** A seed for the parts of a whole: mixSeed(seed, layer, module). */
export function mixSeed(seed: bigint, ...parts: number[]): bigint {
  return parts.reduce((mixed, part) => splitMix(mixed ^ splitMix(BigInt(part) + 1n)), seed);
}

/** SplitMix64's output function. Source: Steele, Lea, Flood, 2014. */
function splitMix(state: bigint): bigint {
  const mask = 0xffff_ffff_ffff_ffffn;
  let z = (state + 0x9e37_79b9_7f4a_7c15n) & mask;
  z = ((z ^ (z >> 30n)) * 0xbf58_476d_1ce4_e5b9n) & mask;
  z = ((z ^ (z >> 27n)) * 0x94d0_49bb_1331_11ebn) & mask;
  return z ^ (z >> 31n);
}

/** Which rows of the micro-batch a tensor's rows are: those from this one on; or these, which ascend. */
export type RowPlace = number | Int32Array;

/** Rows of a tensor that share a generator, and which of the micro-batch they are. */
export interface DropoutBlock extends Rows {
  place: RowPlace;
}

/** The blocks of a tensor's rows that a loop has to take; one block where nothing is dropped. */
export function dropoutBlocks(
  rows: number,
  dropout: Dropout | undefined,
  place: RowPlace,
): Kind<DropoutBlock>[] {
  if (!dropout) return [{ part: { start: 0, end: rows, place }, index: 0, times: 1 }];
  if (typeof place !== "number") return kindsOf(pickedBlocks(place), rowCount);
  const begun = Math.min(rows, (DROPOUT_BLOCK_ROWS - (place % DROPOUT_BLOCK_ROWS)) % DROPOUT_BLOCK_ROWS);
  const rest = kindsOfTiles(rows - begun, DROPOUT_BLOCK_ROWS).map(({ part, index, times }) => ({
    part: { start: begun + part.start, end: begun + part.end, place: place + begun + part.start },
    index: begun > 0 ? index + 1 : index,
    times,
  }));
  return begun > 0 ? [{ part: { start: 0, end: begun, place }, index: 0, times: 1 }, ...rest] : rest;
}

/** Picked rows by the block that each is of. */
export function pickedBlocks(picked: Int32Array): DropoutBlock[] {
  const blocks: DropoutBlock[] = [];
  for (let start = 0; start < picked.length; ) {
    const block = Math.floor(picked[start]! / DROPOUT_BLOCK_ROWS);
    let end = start + 1;
    while (end < picked.length && Math.floor(picked[end]! / DROPOUT_BLOCK_ROWS) === block) end++;
    blocks.push({ start, end, place: picked.subarray(start, end) });
    start = end;
  }
  return blocks;
}

/**
 * Multiplies x by its mask / (1 - probability), in place. x: rows of one block, (t <= 512, columns); `part` tells apart masks of the same
 * rows, as those of the kv heads. The probability is met to 1 / 65536.
 */
export function dropBlock_(x: Tensor, { probability, seed }: Dropout, place: RowPlace, part = 0): Tensor {
  scope(() => {
    const columns = x.shape[1]!;
    const block = Math.floor((typeof place === "number" ? place : place[0]!) / DROPOUT_BLOCK_ROWS);
    using generator = createGenerator(mixSeed(seed, block, part), x.device);
    const words = empty([DROPOUT_BLOCK_ROWS, Math.ceil(columns / 4)], { dtype: "int64", device: x.device });
    words.random_(-(2n ** 63n), null, { generator }); // one draw gives four numbers of 16 bits
    const numbers = blockRows(words, x.shape[0]!, place).viewDtype("int16").narrow(1, 0, columns);
    x.maskedFill_(numbers.lt(Math.round(probability * 2 ** 16) - 2 ** 15), 0).mul_(1 / (1 - probability));
  });
  return x;
}

/** Those of a block's rows that a tensor of so many has. */
function blockRows(block: Tensor, rows: number, place: RowPlace): Tensor {
  if (typeof place === "number") {
    const start = place % DROPOUT_BLOCK_ROWS;
    return rowsOf(block, { start, end: start + rows });
  }
  const within = place.map((row) => row % DROPOUT_BLOCK_ROWS);
  return block.indexSelect(0, fromArray(within, [rows], { dtype: "int64", device: block.device }));
}

/** A copy of x with its mask applied. x: (t, columns). */
export function dropped(x: Tensor, dropout: Dropout, place: RowPlace, part = 0): Tensor {
  return scope(() => {
    const copy = x.clone();
    forEachKind(dropoutBlocks(x.shape[0]!, dropout, place), (block) => {
      dropBlock_(rowsOf(copy, block), dropout, block.place, part);
    });
    return copy;
  });
}
