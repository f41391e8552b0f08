/** The values that ranks send in tests, and what each collective makes of them by plain arithmetic. */
import { fromArray } from "../../src/torch/create.ts";
import type { DType } from "../../src/torch/dtypes.ts";
import { keep, scope, type Tensor } from "../../src/torch/tensor.ts";

/** Small whole numbers: every dtype holds them and their sums, rounded the same way everywhere. */
export function valuesOf(rank: number, elements: number): number[] {
  return Array.from({ length: elements }, (_, at) => ((at * 3 + rank * 5) % 7) + (rank % 2));
}

export function tensorOf(values: readonly number[], dtype: DType): Tensor {
  return keep(scope(() => fromArray(values, [values.length]).to({ dtype })));
}

export function bytesOf(values: readonly number[], dtype: DType): string {
  return scope(() => Buffer.from(fromArray(values, [values.length]).to({ dtype }).toBytes()).toString("hex"));
}

/** Returns the bytes that rank `rank` of `count` has after each collective, by "collective dtype". */
export function expected(
  rank: number,
  count: number,
  elements: number,
  { summed, moved }: { summed: readonly DType[]; moved: readonly DType[] },
): Record<string, string> {
  const ranks = Array.from({ length: count }, (_, each) => each);
  const all: Record<string, string> = {};
  for (const dtype of summed) {
    const sums = valuesOf(0, elements).map((_, at) =>
      ranks.reduce((sum, each) => sum + valuesOf(each, elements)[at]!, 0),
    );
    all[`sum ${dtype}`] = bytesOf(sums, dtype);
  }
  for (const dtype of moved) {
    const gathered = bytesOf(
      ranks.flatMap((each) => valuesOf(each, elements)),
      dtype,
    );
    all[`gather ${dtype}`] = gathered;
    all[`gather own ${dtype}`] = gathered;
    all[`exchange ${dtype}`] = bytesOf(
      ranks.flatMap((each) => valuesOf(each, elements * count).slice(rank * elements, (rank + 1) * elements)),
      dtype,
    );
    for (const root of ranks) all[`broadcast ${root} ${dtype}`] = bytesOf(valuesOf(root, elements), dtype);
  }
  return all;
}
