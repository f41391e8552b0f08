// Matrix products on meta. Our own products (products.h) allocate no tensor except their result. oneDNN's
// products allocate a scratchpad whose size only oneDNN knows. To find it, the real kernel is called on
// memory that does not exist, and stopped at the allocation.
#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/baddbmm.h>
#include <ATen/ops/bmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/mm.h>
#include <sys/mman.h>
#include <torch/library.h>

#include <optional>
#include <string>
#include <unordered_map>

#include "meta_kernels.h"
#include "products.h"

namespace lorafit {

using at::Scalar;
using at::Tensor;

Tensor phantom(at::IntArrayRef sizes, at::IntArrayRef strides, at::ScalarType dtype) {
  int64_t elements = 1;
  for (size_t dim = 0; dim < sizes.size(); ++dim) elements += (sizes[dim] - 1) * strides[dim];
  const size_t bytes = static_cast<size_t>(elements) * c10::elementSize(dtype);
  void* start =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  TORCH_CHECK(start != MAP_FAILED, "no address space for ", bytes, " bytes");
  const auto options = at::TensorOptions().dtype(dtype);
  return at::from_blob(start, sizes, strides, [bytes](void* data) { munmap(data, bytes); }, options);
}

Tensor phantom_of(const Tensor& like) { return phantom(like.sizes(), like.strides(), like.scalar_type()); }

namespace {

/**
 * Returns the bytes of a cpu product's first allocation besides its result. Returns nothing if it makes none,
 * which requires multiplying.
 */
template <typename Call>
std::optional<int64_t> first_allocation(const Tensor& left, const Tensor& right, const Tensor& out, Call call) {
  const Tensor phantom_out = phantom_of(out), phantom_left = phantom_of(left), phantom_right = phantom_of(right);
  return allocation_after(0, [&] { call(phantom_out, phantom_left, phantom_right); });
}

/** Returns first_allocation, asked once for each shape. */
template <typename Call>
std::optional<int64_t> scratch_bytes(
    const char* kernel, const Tensor& left, const Tensor& right, const Tensor& out, Call call) {
  static auto* known = new std::unordered_map<std::string, std::optional<int64_t>>;
  const std::string key = c10::str(
      kernel, out.scalar_type(), left.sizes(), left.strides(), right.sizes(), right.strides(), out.strides(),
      at::get_num_threads());
  if (const auto found = known->find(key); found != known->end()) return found->second;
  return known->emplace(key, first_allocation(left, right, out, call)).first->second;
}

/** Returns whether oneDNN reads a batch of matrices in place; ATen copies other batches for it. */
bool is_read_as_it_lies(const Tensor& matrices) {
  const auto sizes = matrices.sizes(), strides = matrices.strides();
  return matrices.is_contiguous() ||
         (strides[0] == sizes[1] * sizes[2] && strides[1] == 1 && strides[2] == sizes[1]);
}

/** Returns the matrices, or the copy that ATen makes of them for oneDNN. */
Tensor read_by_onednn(const Tensor& matrices) {
  const bool copied = matrices.dim() == 3 && !is_read_as_it_lies(matrices);
  return copied ? at::empty(matrices.sizes(), matrices.options()) : matrices;
}

/** Allocates and frees the memory that a product uses besides its result. */
template <typename Call>
void pass_scratch(const char* kernel, const Tensor& left, const Tensor& right, const Tensor& out, Call call) {
  if (plan_target().cuda || out.numel() == 0 || left.numel() == 0 || !asks_onednn(out.scalar_type())) return;
  if (!scratch_bytes(kernel, left, right, out, call)) return;
  const Tensor read_left = read_by_onednn(left), read_right = read_by_onednn(right);
  const int64_t bytes = scratch_bytes(kernel, read_left, read_right, out, call).value_or(0);
  const Tensor scratch = at::empty({bytes}, out.options().dtype(at::kByte));
}

void pass_mm(const Tensor& left, const Tensor& right, const Tensor& out) {
  if (multiplies(out, left, right)) return;
  pass_scratch(
      "mm", left, right, out, [](Tensor to, const Tensor& a, const Tensor& b) { at::mm_out(to, a, b); });
}

void pass_addmm(
    const Tensor& left, const Tensor& right, const Tensor& out, const Scalar& beta, const Scalar& alpha,
    bool in_place) {
  if (in_place && multiplies(out, left, right)) return;
  const char* kernel = beta.toDouble() == 0 ? "mm" : "addmm";
  pass_scratch(kernel, left, right, out, [&](Tensor to, const Tensor& a, const Tensor& b) {
    to.addmm_(a, b, beta, alpha);
  });
}

void pass_bmm(
    const Tensor& left, const Tensor& right, const Tensor& out, const Scalar& beta, const Scalar& alpha) {
  const char* kernel = beta.toDouble() == 0 ? "bmm" : "baddbmm";
  pass_scratch(kernel, left, right, out, [&](Tensor to, const Tensor& a, const Tensor& b) {
    to.baddbmm_(a, b, beta, alpha);
  });
}

void check_product(const Tensor& left, const Tensor& right, int64_t dims) {
  TORCH_CHECK(left.dim() == dims && right.dim() == dims, "the factors must be ", dims, "-D tensors");
  TORCH_CHECK(
      left.size(-1) == right.size(-2), "the factors' shapes cannot be multiplied (", left.sizes(), " and ",
      right.sizes(), ")");
  TORCH_CHECK(dims == 2 || left.size(0) == right.size(0), "the factors' batches differ");
  TORCH_CHECK(left.scalar_type() == right.scalar_type(), "the factors must have the same dtype");
}

std::vector<int64_t> product_shape(const Tensor& left, const Tensor& right) {
  auto shape = left.sizes().vec();
  shape.back() = right.size(-1);
  return shape;
}

Tensor mm(const Tensor& left, const Tensor& right) {
  check_product(left, right, 2);
  Tensor out = at::empty(product_shape(left, right), left.options());
  pass_mm(left, right, out);
  return out;
}

Tensor bmm(const Tensor& left, const Tensor& right) {
  check_product(left, right, 3);
  Tensor out = at::empty(product_shape(left, right), left.options());
  pass_bmm(left, right, out, 0, 1);
  return out;
}

void check_sum(const Tensor& self, const Tensor& left, const Tensor& right, bool in_place) {
  check_product(left, right, left.dim());
  const auto shape = product_shape(left, right);
  TORCH_CHECK(self.scalar_type() == left.scalar_type(), "self and the factors must have the same dtype");
  TORCH_CHECK(
      in_place ? self.sizes().equals(shape) : at::is_expandable_to(self.sizes(), shape), "the shape ",
      self.sizes(), " is not that of the product ", at::IntArrayRef(shape));
}

Tensor addmm(
    const Tensor& self, const Tensor& left, const Tensor& right, const Scalar& beta, const Scalar& alpha) {
  TORCH_CHECK(left.dim() == 2, "the factors must be 2-D tensors");
  check_sum(self, left, right, false);
  Tensor out = at::empty(product_shape(left, right), left.options());
  pass_addmm(left, right, out, beta, alpha, false);
  return out;
}

Tensor& addmm_(
    Tensor& self, const Tensor& left, const Tensor& right, const Scalar& beta, const Scalar& alpha) {
  TORCH_CHECK(left.dim() == 2, "the factors must be 2-D tensors");
  check_sum(self, left, right, true);
  pass_addmm(left, right, self, beta, alpha, true);
  return self;
}

Tensor baddbmm(
    const Tensor& self, const Tensor& left, const Tensor& right, const Scalar& beta, const Scalar& alpha) {
  TORCH_CHECK(left.dim() == 3, "the factors must be 3-D tensors");
  check_sum(self, left, right, false);
  Tensor out = at::empty(product_shape(left, right), left.options());
  pass_bmm(left, right, out, beta, alpha);
  return out;
}

Tensor& baddbmm_(
    Tensor& self, const Tensor& left, const Tensor& right, const Scalar& beta, const Scalar& alpha) {
  TORCH_CHECK(left.dim() == 3, "the factors must be 3-D tensors");
  check_sum(self, left, right, true);
  pass_bmm(left, right, self, beta, alpha);
  return self;
}

} // namespace

bool asks_onednn(at::ScalarType dtype) {
  static auto* known = new std::unordered_map<at::ScalarType, bool>;
  if (const auto found = known->find(dtype); found != known->end()) return found->second;
  const Tensor square = phantom({64, 64}, {64, 1}, dtype); // not on meta, where bytes are counted
  const auto bytes = first_allocation(square, square, square, [](Tensor to, const Tensor& a, const Tensor& b) {
    at::mm_out(to, a, b);
  });
  return known->emplace(dtype, bytes.has_value()).first->second;
}

void implement_products(torch::Library& library) {
  library.impl("mm", TORCH_FN(mm));
  library.impl("bmm", TORCH_FN(bmm));
  library.impl("addmm", TORCH_FN(addmm));
  library.impl("addmm_", TORCH_FN(addmm_));
  library.impl("baddbmm", TORCH_FN(baddbmm));
  library.impl("baddbmm_", TORCH_FN(baddbmm_));
}

} // namespace lorafit
