// Pinned host memory: cpu tensors that a card reads and writes by itself.
#pragma once

#include <cstddef>

namespace lorafit {

/**
 * Installs our allocator of CUDA's pinned memory. Its blocks have exactly the pages that are needed
 * (libtorch's own rounds up to powers of two), and are booked to the calling thread's booking. Call once,
 * after libtorch's CUDA half is loaded.
 */
void install_pinned_allocator();

} // namespace lorafit
