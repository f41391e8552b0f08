// CUDA without CUDA headers: loading libtorch's CUDA half registers its kernels with the dispatcher.
#pragma once

#include "values.h"

namespace lorafit {

/** Loads libtorch_cuda.so from the folder of libtorch_cpu.so, once; throws with the loader's reason. */
void ensure_cuda();

/** loadCuda() -> number of CUDA devices; throws if there is none. */
napi_value load_cuda(const Arguments& arguments);
/**
 * useCard(device): makes a card the default of this thread's calls that name no card, such as calls for
 * events and pinned memory. Otherwise CUDA also makes a context on the first card, of hundreds of MiB.
 */
napi_value use_card(const Arguments& arguments);
/** synchronize(device): waits for everything queued on a device. */
napi_value synchronize_device(const Arguments& arguments);
/**
 * emptyCache(device): returns unused memory of the device's allocator to the card, or of the CPU's to the
 * system.
 */
napi_value empty_device_cache(const Arguments& arguments);
/** deviceMemory(device) -> bytes [total, free, allocated, peak allocated, reserved, peak reserved]. */
napi_value device_memory(const Arguments& arguments);

} // namespace lorafit
