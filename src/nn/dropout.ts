/**
 * Dropout that no memory policy can change: masks are drawn for blocks of 512 rows from generators seeded by what is dropped, so that
 * recomputation, tiles and head groups see the same one.
 */

import { empty } from "../torch/create.ts";
import { createGenerator } from "../torch/random.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { forEachPart, type Rows, rowCount, rowsOf, tilesOf } from "./rows.ts";

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

/** The blocks of a tile that starts at firstRow (a multiple of the block) of the micro-batch; one block where nothing is dropped. */
export function dropoutBlocks(rows: number, dropout: Dropout | undefined): Rows[] {
  return dropout ? tilesOf(rows, DROPOUT_BLOCK_ROWS) : [{ start: 0, end: rows }];
}

/**
 * Multiplies x by its mask / (1 - probability), in place. x: one block of rows, (t <= 512, columns), whose first row in the micro-batch
 * is firstRow; `part` tells apart masks of the same rows, as those of the kv heads. The probability is met to 1 / 65536.
 */
export function dropBlock_(x: Tensor, { probability, seed }: Dropout, firstRow: number, part = 0): Tensor {
  scope(() => {
    const columns = x.shape[1]!;
    using generator = createGenerator(
      mixSeed(seed, Math.floor(firstRow / DROPOUT_BLOCK_ROWS), part),
      x.device,
    );
    const words = empty([DROPOUT_BLOCK_ROWS, Math.ceil(columns / 4)], { dtype: "int64", device: x.device });
    words.random_(-(2n ** 63n), null, { generator }); // one draw gives four numbers of 16 bits
    const numbers = rowsOf(words, { start: 0, end: x.shape[0]! }).viewDtype("int16").narrow(1, 0, columns);
    x.maskedFill_(numbers.lt(Math.round(probability * 2 ** 16) - 2 ** 15), 0).mul_(1 / (1 - probability));
  });
  return x;
}

/** A copy of x with its mask applied. x: (t, columns) from row firstRow of the micro-batch. */
export function dropped(x: Tensor, dropout: Dropout, firstRow: number, part = 0): Tensor {
  return scope(() => {
    const copy = x.clone();
    forEachPart(tilesOf(x.shape[0]!, DROPOUT_BLOCK_ROWS), rowCount, (block) => {
      dropBlock_(rowsOf(copy, block), dropout, firstRow + block.start, part);
    });
    return copy;
  });
}
