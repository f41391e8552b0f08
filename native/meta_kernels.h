// Kernels of the meta device for operators whose meta kernels exist in Python alone, or which don't count
// what they allocate. They allocate the outputs and temporaries of the real kernel, in its order, so that a
// step on meta has the step's peak.
#pragma once

#include <optional>
#include <vector>

#include "allocators.h"
#include "values.h"

namespace torch {
class Library;
}

namespace lorafit {

/** The device whose kernels meta ones stand for, where cpu's and CUDA's allocate differently. */
struct PlanTarget {
  bool cuda = false;
  int64_t multiprocessors = 0; // of the card: flash attention splits short inputs over idle ones
};
PlanTarget& plan_target();

/** Makes them those of the dispatcher, for the life of the process. */
void register_meta_kernels();
void implement_attention(torch::Library& library);
void implement_norms(torch::Library& library);
void implement_products(torch::Library& library);

/** A cpu tensor of these sizes and strides on address space alone: untouched pages cost nothing. */
at::Tensor phantom(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype);
/** A cpu tensor laid out as a meta one. */
at::Tensor phantom_of(const at::Tensor& like);

inline bool is_half(at::ScalarType type) { return type == at::kHalf || type == at::kBFloat16; }

/**
 * Whether cpu products in this dtype take memory from the allocator, which oneDNN's do even if it is none, and ATen's own never: of those,
 * asking would mean multiplying.
 */
bool asks_onednn(at::ScalarType dtype);

/** Bytes of the first allocation on cpu that `call` makes after `most` others, where it is stopped; nothing if it gets to its end. */
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

/** setPlanTarget(cuda, multiprocessors) -> [cuda, multiprocessors] as they were. */
napi_value set_plan_target(const Arguments& arguments);

} // namespace lorafit
