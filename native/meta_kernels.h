// Kernels of the meta device for operators whose meta kernels exist only in Python, or do not count their
// allocations. These kernels allocate the outputs and temporaries of the real kernel, in its order. So a step
// on meta has the peak of the real step.
#pragma once

#include <optional>
#include <vector>

#include "allocators.h"
#include "values.h"

namespace torch {
class Library;
}

namespace lorafit {

/** The device that meta kernels stand for, since kernels of cpu and CUDA allocate differently. */
struct PlanTarget {
  bool cuda = false;
  int64_t multiprocessors = 0; // of the card: flash attention splits short inputs over idle multiprocessors
};
PlanTarget& plan_target();

/** Registers the meta kernels with the dispatcher, for the life of the process. */
void register_meta_kernels();
void implement_attention(torch::Library& library);
void implement_norms(torch::Library& library);
void implement_products(torch::Library& library);

/** Makes a cpu tensor of these sizes and strides on address space only: untouched pages cost nothing. */
at::Tensor phantom(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype);
/** Makes a phantom with the layout of a meta tensor. */
at::Tensor phantom_of(const at::Tensor& like);

inline bool is_half(at::ScalarType type) { return type == at::kHalf || type == at::kBFloat16; }

/**
 * Returns whether cpu products in this dtype allocate memory. oneDNN's always ask the allocator, even for
 * zero bytes; ATen's own never do, so asking about a shape would mean multiplying.
 */
bool asks_onednn(at::ScalarType dtype);

/**
 * Returns the bytes of the cpu allocation that `call` makes after `most` others, and stops `call` there.
 * Returns nothing if `call` finishes first.
 */
template <typename Call>
std::optional<int64_t> allocation_after(size_t most, Call call) {
  std::vector<int64_t> sizes;
  try {
    const ListAllocations listing(sizes, most);
    call();
    return std::nullopt;
  } catch (const AllocationAsked& asked) {
    return asked.bytes;
  }
}

/** setPlanTarget(cuda, multiprocessors) -> [cuda, multiprocessors] before. */
napi_value set_plan_target(const Arguments& arguments);

} // namespace lorafit
