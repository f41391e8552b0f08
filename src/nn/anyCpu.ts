/**
 * A processor in round figures, for choices that must be the same on every machine, and where nobody has measured this one: two cores of the
 * processor in docs/performance.md. What matters is the proportion: FLOPs of products that pass while a byte comes from memory.
 */
import type { DType } from "../torch/dtypes.ts";

const FLOPS_PER_BYTE = 32;

const flopsPerSecond = { bfloat16: 1e12, float32: 2e11 } as const satisfies Partial<Record<DType, number>>;

export const ANY_CPU = { flopsPerSecond, memoryBytesPerSecond: flopsPerSecond.bfloat16 / FLOPS_PER_BYTE };

/** FLOPs that pass while a number of 16 bits comes from memory. */
export const FLOPS_PER_NUMBER = 2 * FLOPS_PER_BYTE;
