#include "meta_kernels.h"

#include <ATen/ExpandUtils.h>
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/result_type.h>
#include <c10/util/Exception.h>
#include <torch/library.h>

namespace lorafit {
namespace {

using at::Tensor;

/**
 * Resizes a meta tensor and allocates the memory that a real tensor would get; libtorch's own resizing
 * allocates none.
 */
Tensor& resize(Tensor& tensor, at::IntArrayRef shape) {
  const int64_t elements = c10::multiply_integers(shape);
  const auto bytes = static_cast<size_t>(elements + tensor.storage_offset()) * tensor.element_size();
  if (elements > 0 && bytes > tensor.storage().nbytes()) tensor.set_(at::empty(shape, tensor.options()));
  tensor.unsafeGetTensorImpl()->set_sizes_contiguous(shape);
  return tensor;
}

const Tensor& resize_(const Tensor& self, c10::SymIntArrayRef shape, std::optional<at::MemoryFormat> format) {
  Tensor tensor = self;
  resize(tensor, C10_AS_INTARRAYREF_SLOW(shape));
  return self;
}

Tensor& same_shape_out(const Tensor& self, Tensor& out) {
  return out.sizes().equals(self.sizes()) ? out : resize(out, self.sizes());
}

Tensor& broadcast_out(const Tensor& self, const Tensor& other, Tensor& out) {
  const auto shape = at::infer_size(self.sizes(), other.sizes());
  return out.sizes().equals(shape) ? out : resize(out, shape);
}

Tensor& nan_to_num_out(
    const Tensor& self, std::optional<double>, std::optional<double>, std::optional<double>, Tensor& out) {
  return same_shape_out(self, out);
}

Tensor& arange_out(const at::Scalar& start, const at::Scalar& end, const at::Scalar& step, Tensor& out) {
  TORCH_CHECK(step.toDouble() != 0, "step must be nonzero");
  const double length = std::ceil((end.toDouble() - start.toDouble()) / step.toDouble());
  TORCH_CHECK(length >= 0, "upper bound and lower bound inconsistent with step sign");
  return out.numel() == static_cast<int64_t>(length) ? out : resize(out, {static_cast<int64_t>(length)});
}

Tensor& randperm_out(int64_t n, std::optional<at::Generator> generator, Tensor& out) {
  return resize(out, {n});
}

Tensor same(const Tensor& self) { return at::empty_like(self); }

Tensor same_as_bool(const Tensor& self) { return at::empty_like(self, self.options().dtype(at::kBool)); }

Tensor scalar_of(const Tensor& self) { return at::empty({}, self.options()); }

Tensor flip(const Tensor& self, at::IntArrayRef dims) { return same(self); }

Tensor roll(const Tensor& self, at::IntArrayRef shifts, at::IntArrayRef dims) {
  return at::empty_like(self, at::MemoryFormat::Contiguous);
}

Tensor reverse_subtract(const Tensor& self, const Tensor& other, const at::Scalar& alpha) {
  return at::empty(
      at::infer_size(self.sizes(), other.sizes()), self.options().dtype(at::result_type(self, other)));
}

Tensor dot(const Tensor& self, const Tensor& other) {
  TORCH_CHECK(
      self.dim() == 1 && other.dim() == 1 && self.numel() == other.numel(),
      "1D tensors of one size expected");
  return scalar_of(self);
}

Tensor& where_out(const Tensor& condition, const Tensor& self, const Tensor& other, Tensor& out) {
  const auto shape = at::infer_size(at::infer_size(condition.sizes(), self.sizes()), other.sizes());
  return out.sizes().equals(shape) ? out : resize(out, shape);
}

Tensor where(const Tensor& condition, const Tensor& self, const Tensor& other) {
  const auto shape = at::infer_size(at::infer_size(condition.sizes(), self.sizes()), other.sizes());
  return at::empty(
      shape, (self.dim() > 0 ? self : other)
                 .options()
                 .device(condition.device())
                 .dtype(at::result_type(self, other)));
}

/** Always throws: the operator chooses a kernel by device, so a plan would run meta's own kernel. */
Tensor scaled_dot_product_attention(
    const Tensor&, const Tensor&, const Tensor&, const std::optional<Tensor>&, double, bool, std::optional<double>,
    bool) {
  TORCH_CHECK(false, "on meta the kernel has to be called by its name");
}

Tensor index_select(const Tensor& self, int64_t dim, const Tensor& index) {
  TORCH_CHECK(index.dim() <= 1, "index_select: index must be a vector");
  TORCH_CHECK_INDEX(self.dim() > 0 || index.numel() == 1, "index_select: a scalar has one element");
  auto shape = self.sizes().vec();
  if (!shape.empty()) shape[c10::maybe_wrap_dim(dim, self.dim())] = index.numel();
  return at::empty(shape, self.options());
}

Tensor searchsorted(
    const Tensor& /*sorted_sequence*/, const Tensor& self, bool out_int32, bool /*right*/,
    std::optional<std::string_view> /*side*/, const std::optional<Tensor>& /*sorter*/) {
  return at::empty(self.sizes(), self.options().dtype(out_int32 ? at::kInt : at::kLong));
}

/** Returns the shape after a reduction over these dims, or over all dims if none are given. */
std::vector<int64_t> reduced_shape(const Tensor& self, at::OptionalIntArrayRef dims, bool keepdim) {
  std::vector<bool> gone(self.dim(), !dims || dims->empty());
  if (dims) {
    for (const int64_t dim : *dims) gone[c10::maybe_wrap_dim(dim, self.dim())] = true;
  }
  std::vector<int64_t> shape;
  for (int64_t dim = 0; dim < self.dim(); ++dim) {
    if (!gone[dim]) shape.push_back(self.size(dim));
    if (gone[dim] && keepdim) shape.push_back(1);
  }
  return shape;
}

Tensor variance(
    const Tensor& self, at::OptionalIntArrayRef dims, const std::optional<at::Scalar>& correction,
    bool keepdim) {
  return at::empty(reduced_shape(self, dims, keepdim), self.options());
}

Tensor count_nonzero(const Tensor& self, at::IntArrayRef dims) {
  return at::empty(reduced_shape(self, dims, false), self.options().dtype(at::kLong));
}

/**
 * Adds rows at an index. On cpu, half precision needs float32 temporaries: one row per thread if rows are
 * long and contiguous, else a copy of the whole tensor.
 */
Tensor& index_add_(
    Tensor& self, int64_t dim, const Tensor& index, const Tensor& source, const at::Scalar& alpha) {
  dim = c10::maybe_wrap_dim(dim, self.dim());
  auto shape = self.sizes().vec();
  if (!shape.empty()) shape[dim] = index.numel();
  TORCH_CHECK(
      source.sizes().equals(shape), "index_add_(): source has the shape ", source.sizes(), " instead of ",
      at::IntArrayRef(shape));
  if (plan_target().cuda || !at::isReducedFloatingType(self.scalar_type()) || index.numel() == 0) return self;
  const auto floats = self.options().dtype(at::kFloat);
  const int64_t row = self.numel() / self.size(0);
  const bool by_rows = dim == 0 && row >= 16 && self.is_contiguous() && source.is_contiguous();
  const Tensor sums =
      by_rows ? at::empty({at::get_num_threads(), row}, floats) : at::empty(self.sizes(), floats);
  return self;
}

Tensor softmax(const Tensor& self, int64_t dim, bool half_to_float) {
  const auto options = self.options().dtype(half_to_float ? at::kFloat : self.scalar_type());
  Tensor out = at::empty(self.sizes(), options);
  const Tensor whole = self.contiguous();
  return out;
}

/** Copies. cpu transposes big matrices by tiles, in a buffer of one tile. */
Tensor& copy_(Tensor& self, const Tensor& source, bool non_blocking) {
  TORCH_CHECK(self.is_meta(), "a meta tensor has no data to copy");
  TORCH_CHECK(
      at::is_expandable_to(source.sizes(), self.sizes()), "The size of tensor a (", self.sizes(),
      ") must match the size of tensor b (", source.sizes(), ")");
  const int64_t tile = self.element_size() == 1 ? 120 : 60;
  const bool transposes = !plan_target().cuda && source.is_meta() && self.is_contiguous() &&
                          source.dim() == 2 && source.stride(0) == 1 && source.stride(1) == source.size(0) &&
                          self.scalar_type() == source.scalar_type() && self.sizes().equals(source.sizes()) &&
                          self.numel() >= tile * tile;
  if (transposes) const Tensor buffer = at::empty({tile, tile}, self.options());
  return self;
}

void check_product(const Tensor& self, const Tensor& other) {
  TORCH_CHECK(
      self.dim() == 2 && other.dim() == 2 && self.size(1) == other.size(0), "the shapes can't be multiplied");
}

Tensor int_mm(const Tensor& self, const Tensor& other) {
  check_product(self, other);
  return at::empty({self.size(0), other.size(1)}, self.options().dtype(at::kInt));
}

Tensor scaled_mm(
    const Tensor& self, const Tensor& other, const Tensor& scale_self, const Tensor& scale_other,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& scale_result,
    std::optional<at::ScalarType> dtype, bool fast) {
  check_product(self, other);
  return at::empty({self.size(0), other.size(1)}, self.options().dtype(dtype.value_or(self.scalar_type())));
}

Tensor& scaled_mm_out(
    const Tensor& self, const Tensor& other, const Tensor& scale_self, const Tensor& scale_other,
    const std::optional<Tensor>& bias, const std::optional<Tensor>& scale_result,
    std::optional<at::ScalarType> dtype, bool fast, Tensor& out) {
  check_product(self, other);
  TORCH_CHECK(
      out.dim() == 2 && out.size(0) == self.size(0) && out.size(1) == other.size(1),
      "the result has the shape ", out.sizes());
  return out;
}

/** Keeps the dispatcher quiet about kernels that replace libtorch's own on purpose. */
class Quiet final : public c10::WarningHandler {
 public:
  void process(const c10::Warning&) override {}
};

} // namespace

PlanTarget& plan_target() {
  static PlanTarget target;
  return target;
}

void register_meta_kernels() {
  Quiet quiet;
  const c10::WarningUtils::WarningHandlerGuard guard(&quiet);
  static auto* library =
      new torch::Library(torch::Library::IMPL, "aten", c10::DispatchKey::Meta, __FILE__, __LINE__);
  library->impl("resize_", TORCH_FN(resize_));
  library->impl("arange.start_out", TORCH_FN(arange_out));
  library->impl("randperm.generator_out", TORCH_FN(randperm_out));
  library->impl("abs.out", TORCH_FN(same_shape_out));
  library->impl("logical_not.out", TORCH_FN(same_shape_out));
  library->impl("logical_and.out", TORCH_FN(broadcast_out));
  library->impl("logical_or.out", TORCH_FN(broadcast_out));
  library->impl("nan_to_num.out", TORCH_FN(nan_to_num_out));
  library->impl("relu", TORCH_FN(same));
  library->impl("isnan", TORCH_FN(same_as_bool));
  library->impl("flip", TORCH_FN(flip));
  library->impl("roll", TORCH_FN(roll));
  library->impl("rsub.Tensor", TORCH_FN(reverse_subtract));
  library->impl("dot", TORCH_FN(dot));
  library->impl("max", TORCH_FN(scalar_of));
  library->impl("min", TORCH_FN(scalar_of));
  library->impl("where.self", TORCH_FN(where));
  library->impl("where.self_out", TORCH_FN(where_out));
  library->impl("scaled_dot_product_attention", TORCH_FN(scaled_dot_product_attention));
  library->impl("index_select", TORCH_FN(index_select));
  library->impl("searchsorted.Tensor", TORCH_FN(searchsorted));
  library->impl("index_add_", TORCH_FN(index_add_));
  library->impl("_softmax", TORCH_FN(softmax));
  library->impl("_log_softmax", TORCH_FN(softmax));
  library->impl("copy_", TORCH_FN(copy_));
  library->impl("var.correction", TORCH_FN(variance));
  library->impl("count_nonzero.dim_IntList", TORCH_FN(count_nonzero));
  library->impl("_int_mm", TORCH_FN(int_mm));
  library->impl("_scaled_mm", TORCH_FN(scaled_mm));
  library->impl("_scaled_mm.out", TORCH_FN(scaled_mm_out));
  implement_attention(*library);
  implement_norms(*library);
  implement_products(*library);
}

napi_value set_plan_target(const Arguments& arguments) {
  napi_env env = arguments.env;
  napi_value before = new_array(env, 2);
  set_element(env, before, 0, from_bool(env, plan_target().cuda));
  set_element(env, before, 1, from_double(env, static_cast<double>(plan_target().multiprocessors)));
  plan_target() = {to_bool(env, arguments[0], "cuda"), to_int(env, arguments[1], "multiprocessors")};
  return before;
}

} // namespace lorafit
