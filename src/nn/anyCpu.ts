/**
 * A processor in round figures: two cores of the processor in docs/performance.md. It serves choices that
 * must be the same on every machine, and machines that nobody has measured. Only the ratio matters: FLOPs of
 * matrix products per byte read from memory.
 */
import type { DType } from "../torch/dtypes.ts";

const FLOPS_PER_BYTE = 32;

const flopsPerSecond = { bfloat16: 1e12, float32: 2e11 } as const satisfies Partial<Record<DType, number>>;

export const ANY_CPU = { flopsPerSecond, memoryBytesPerSecond: flopsPerSecond.bfloat16 / FLOPS_PER_BYTE };

/** FLOPs in the time that memory needs to deliver one 16-bit number. */
export const FLOPS_PER_NUMBER = 2 * FLOPS_PER_BYTE;
