// Our own kernels for the CPU: one pass over memory, all threads, in place or into memory that the caller
// allocated.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * runLoop(entry, dtype of its scalars, kinds, ...arguments): runs a kernel of cpu_loops.cc. `kinds` has a
 * letter per argument: t pointer to a tensor's first element, i 64-bit whole number, f float. Throws if no
 * kernel has this name, these kinds or this dtype, or if a tensor is not on the CPU.
 */
napi_value run_loop(const Arguments& arguments);
/**
 * loopLevel([level]) -> "amx", "avx512bf16", "avx512", "avx2" or "baseline": the instructions in use before
 * the call. With `level`, which the processor must have, the kernels use that level from now on. Default:
 * LORAFIT_CPU_LEVEL if the processor has it, otherwise the processor's best.
 */
napi_value loop_level(const Arguments& arguments);

struct ProductLoops;
/** Returns our own loops of products and attention in bfloat16 (products.h); null if the level has none. */
const ProductLoops* product_loops();
/** multipliesBfloat16() -> whether the level has product_loops. */
napi_value multiplies_bfloat16(const Arguments& arguments);
/** panelColumns() -> columns per panel of a right factor. */
napi_value panel_columns(const Arguments& arguments);
/** panelPairs() -> a panel has a multiple of so many pairs along the summed dimension. */
napi_value panel_pairs(const Arguments& arguments);

} // namespace lorafit
