/**
 * Linears over rows of several sequences: the frozen product and PLoRA for all rows at once, then LoRA for
 * the rows of each adapter.
 */
import type { LinearName } from "../../models/family.ts";
import { addLinear_, type Linear, type RowInfo } from "../../nn/linear.ts";
import { columnsOf, forEachPart, type Rows, rowCount, rowsOf } from "../../nn/rows.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import type { ServedAdapter } from "../adapters.ts";

/** Rows of a pass that one adapter acts on. */
export interface AdapterRows {
  rows: Rows;
  adapter: ServedAdapter;
}

/** A linear of a layer, without LoRA, and where its LoRA is found. */
export interface Placed {
  linear: Linear;
  name: LinearName;
  layer: number;
}

/** Adds linear(x) with LoRA to `into`. x: (T, in), into: (T, out). */
export function addServed_(
  into: Tensor,
  x: Tensor,
  placed: Placed,
  info: RowInfo,
  adapters: readonly AdapterRows[],
): void {
  addLinear_(into, x, placed.linear, info);
  addLora_(into, x, placed, adapters);
}

/**
 * Adds LoRA's product to `into`, row by row of each adapter. outputs: the rows of the linear that `into` has
 * as columns; default: all.
 */
export function addLora_(
  into: Tensor,
  x: Tensor,
  { name, layer }: Pick<Placed, "name" | "layer">,
  adapters: readonly AdapterRows[],
  outputs?: { of: Rows; columns: Rows },
): void {
  forEachPart(
    adapters.filter(({ adapter }) => adapter.layers[layer]!.has(name)),
    ({ rows }) => rowCount(rows),
    ({ rows, adapter }) => {
      scope(() => {
        const { a, b, scale } = adapter.layers[layer]!.get(name)!;
        const inner = rowsOf(x, rows).mm(a.t()); // (n, R)
        const own = rowsOf(outputs ? columnsOf(into, outputs.columns) : into, rows);
        own.addmm_(inner, (outputs ? rowsOf(b, outputs.of) : b).t(), { alpha: scale });
      });
    },
  );
}
