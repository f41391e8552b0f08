// Our own CUDA kernels: NVRTC compiles their source; the driver loads and launches them. Both libraries are
// opened at run time. Compiling needs neither a card nor a driver.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * nvrtcFacts(library) -> [major, minor, ...architectures that it compiles for, such as 75, 80, ...]; throws
 * if the library cannot be opened.
 */
napi_value nvrtc_facts(const Arguments& arguments);
/**
 * nvrtcCompile(library, source, options) -> machine code for --gpu-architecture=sm_XX; throws with the
 * compiler's log.
 */
napi_value nvrtc_compile(const Arguments& arguments);
/**
 * cardFacts(index) -> [name, compute capability as 10 * major + minor, bytes, multiprocessors]; throws
 * without a driver.
 */
napi_value card_facts(const Arguments& arguments);
/** loadKernel(device, code, entry) -> id of a kernel on that device; kernels are never freed. */
napi_value load_kernel(const Arguments& arguments);
/**
 * launchKernel(id, [blocks x, y, z], threads, kinds, ...arguments): queues a kernel on its device's current
 * stream. `kinds` has a letter per argument: t pointer to a tensor's first element, i 64-bit whole number, f
 * float.
 */
napi_value launch_kernel(const Arguments& arguments);

} // namespace lorafit
