// Pinned host memory: cpu tensors that a card reads and writes by itself.
#pragma once

#include <cstddef>

namespace lorafit {

/**
 * Makes blocks of exactly the pages that are asked for the pinned memory of CUDA (libtorch's own rounds up to powers of two), booked
 * as the calling thread's booking says. Once, after libtorch's CUDA half is there.
 */
void install_pinned_allocator();

} // namespace lorafit
