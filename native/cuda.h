// CUDA without CUDA headers: loading libtorch's CUDA half brings its kernels into the dispatcher.
#pragma once

#include "values.h"

namespace lorafit {

/** Loads libtorch_cuda.so from beside libtorch_cpu.so, once; throws with the loader's reason. */
void ensure_cuda();

/** loadCuda() -> number of CUDA devices; throws where there is none. */
napi_value load_cuda(const Arguments& arguments);
/**
 * useCard(device) makes a card the one that this thread's calls go to where they name none, as those of events and of pinned memory do:
 * else CUDA makes a context on the first card too, of hundreds of MiB.
 */
napi_value use_card(const Arguments& arguments);
/** synchronize(device) waits for everything queued on a device. */
napi_value synchronize_device(const Arguments& arguments);
/** emptyCache(device) gives memory that its allocator holds unused back to the card, or cpu's to the system. */
napi_value empty_device_cache(const Arguments& arguments);
/** deviceMemory(device) -> bytes [total, free, allocated, peak allocated, reserved, peak reserved]. */
napi_value device_memory(const Arguments& arguments);

} // namespace lorafit
