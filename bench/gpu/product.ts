/**
 * Times products of few rows with quantised matrices at the shapes of the 7B model: the fused kernel beside a
 * scratch. FUSED_TOKENS of src/nn/frozen/fused.ts is where the fused kernel stops winning. `product.js
 * [DEVICE]`; the default is cuda:0. On a CPU the twins run.
 */

import { FUSED_TOKENS, fusedProduct_ } from "../../src/nn/frozen/fused.ts";
import {
  dequantizeInto_,
  emptyQuantized,
  type QuantizedMatrix,
  quantizedRows,
} from "../../src/nn/frozen/quantized.ts";
import { rowCount, tilesOf } from "../../src/nn/rows.ts";
import { empty } from "../../src/torch/create.ts";
import { synchronize } from "../../src/torch/device.ts";
import type { Device } from "../../src/torch/dtypes.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";

const device = (process.argv[2] ?? "cuda:0") as Device;
const onCard = device !== "cpu";
const SHAPES = onCard ? [[6144, 4096], [14336, 4096], [4096, 14336]] : [[256, 256]]; // biome-ignore format: pairs
const ROUNDS = onCard ? 50 : 2;

console.log("| precision | W | rows of x | fused, µs | scratch, µs |\n|---|---|---|---|---|");
for (const precision of ["nf4", "int8"] as const) {
  for (const [outs, ins] of SHAPES as [number, number][]) {
    for (const tokens of [1, 2, 4, 8, 16, 24, 32]) {
      scope(() => {
        const matrix = randomMatrix([outs, ins], precision);
        const x = empty([tokens, ins], { dtype: "bfloat16", device }).normal_();
        const y = empty([tokens, outs], { dtype: "bfloat16", device });
        const times = [fusedProduct_, scratchProduct_].map((product) =>
          microseconds(() => scope(() => product(y, x, matrix, 0))),
        );
        console.log(`| ${[precision, `${outs} x ${ins}`, tokens, ...times].join(" | ")} |`);
      });
    }
  }
}
console.log(`\nFused up to ${JSON.stringify(FUSED_TOKENS)} rows.`);

function randomMatrix(shape: readonly [number, number], precision: "nf4" | "int8"): QuantizedMatrix {
  const matrix = emptyQuantized(shape, precision, device);
  matrix.codes.zero_();
  if (matrix.precision === "nf4") {
    matrix.absmax.zero_();
    matrix.nestedAbsmax.fill_(1);
  } else matrix.scales.fill_(1);
  return matrix;
}

/** Multiplies one tile of rows at a time, as src/nn/frozen/frozen.ts does. */
function scratchProduct_(into: Tensor, x: Tensor, matrix: QuantizedMatrix): void {
  const [outs, ins] = [into.shape[1]!, x.shape[1]!];
  const tiles = tilesOf(outs, Math.floor(2 ** 23 / ins));
  const scratch = empty([Math.min(outs, Math.floor(2 ** 23 / ins)), ins], { dtype: x.dtype, device });
  for (const tile of tiles) {
    scope(() => {
      const weight = scratch.narrow(0, 0, rowCount(tile));
      dequantizeInto_(weight, quantizedRows(matrix, tile));
      into.narrow(1, tile.start, rowCount(tile)).addmm_(x, weight.t(), { beta: 0 });
    });
  }
}

function microseconds(body: () => void): string {
  body();
  synchronize(device);
  const startMs = performance.now();
  for (let round = 0; round < ROUNDS; round++) body();
  synchronize(device);
  return (((performance.now() - startMs) * 1000) / ROUNDS).toFixed(1);
}
