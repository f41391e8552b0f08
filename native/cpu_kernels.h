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
 * loopLevel([level]) -> "avx512", "avx2" or "baseline": the vector instructions in use before the call. With
 * `level`, which the processor must have, the kernels use that level from now on. Default: the processor's
 * best.
 */
napi_value loop_level(const Arguments& arguments);
/**
 * Returns whether products and attention in bfloat16 use our own kernels (products.h). They do if the
 * processor multiplies pairs of bfloat16, has no faster matrix unit, and no lower level has been set.
 */
bool multiplies_pairs();
/** multipliesBfloat16() -> multiplies_pairs(). */
napi_value multiplies_bfloat16(const Arguments& arguments);
/** panelColumns() -> columns per panel of a right factor. */
napi_value panel_columns(const Arguments& arguments);

} // namespace lorafit
