// Kernels of our own for the CPU: one pass over memory, all threads, in place or into what the caller has allocated.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * runLoop(entry, dtype of its scalars, kinds, ...arguments) runs a kernel of cpu_loops.cc. `kinds` has a letter an argument: t pointer
 * to a tensor's first element, i 64-bit whole number, f float. Throws where no kernel has this name, these kinds or this dtype, or a
 * tensor isn't on the CPU.
 */
napi_value run_loop(const Arguments& arguments);
/**
 * loopLevel([level]) -> "avx512", "avx2" or "baseline": the vectors that the kernels use, the best that there are until another level is
 * given, which must be one of the processor's.
 */
napi_value loop_level(const Arguments& arguments);
/**
 * Whether the processor multiplies pairs of bfloat16, and has no matrix unit that would be faster, and no lower level has been given: then
 * products and attention in bfloat16 are our own (products.h).
 */
bool multiplies_pairs();
/** multipliesBfloat16() -> the same. */
napi_value multiplies_bfloat16(const Arguments& arguments);
/** panelColumns() -> columns side by side in a panel of what these are multiplied with. */
napi_value panel_columns(const Arguments& arguments);

} // namespace lorafit
