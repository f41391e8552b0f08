// Layer norm and RMS norm on meta. Rows are all dimensions except the normalised ones.
#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/pow.h>
#include <ATen/ops/rsqrt.h>
#include <torch/library.h>

#include "meta_kernels.h"

namespace lorafit {
namespace {

using at::Tensor;

/** Returns the shape of a statistic per row: the input's, with 1 for normalised dimensions. */
std::vector<int64_t> row_shape(const Tensor& input, size_t normalized) {
  TORCH_CHECK(
      normalized >= 1 && normalized <= static_cast<size_t>(input.dim()), "normalized_shape has ", normalized,
      " dimensions, and the input has ", input.dim());
  auto shape = input.sizes().vec();
  std::fill(shape.end() - normalized, shape.end(), 1);
  return shape;
}

/**
 * Returns the dtype of statistics: on CUDA float32 for half precision; on cpu the weight's dtype, or the
 * input's without a weight.
 */
at::ScalarType statistics_type(const Tensor& input, const std::optional<Tensor>& weight) {
  if (plan_target().cuda) return is_half(input.scalar_type()) ? at::kFloat : input.scalar_type();
  return weight && weight->defined() ? weight->scalar_type() : input.scalar_type();
}

Tensor contiguous_or_none(const std::optional<Tensor>& tensor) {
  return tensor && tensor->defined() ? tensor->contiguous() : Tensor();
}

std::tuple<Tensor, Tensor, Tensor> layer_norm(
    const Tensor& input, at::IntArrayRef normalized, const std::optional<Tensor>& weight,
    const std::optional<Tensor>& bias, double eps) {
  const auto rows = row_shape(input, normalized.size());
  const Tensor whole = input.contiguous(), whole_weight = contiguous_or_none(weight),
               whole_bias = contiguous_or_none(bias);
  const auto options = input.options().dtype(statistics_type(input, weight));
  Tensor out = at::empty_like(whole);
  Tensor mean = at::empty(rows, options), rstd = at::empty(rows, options);
  return {out, mean, rstd};
}

std::tuple<Tensor, Tensor, Tensor> layer_norm_backward(
    const Tensor& grad_out, const Tensor& input, at::IntArrayRef normalized, const Tensor& mean,
    const Tensor& rstd, const std::optional<Tensor>& weight, const std::optional<Tensor>& bias,
    std::array<bool, 3> mask) {
  const Tensor whole = input.contiguous(), whole_grad = grad_out.contiguous();
  const Tensor whole_weight = contiguous_or_none(weight);
  const auto like = [](const Tensor& tensor) { return at::empty_like(tensor); };
  Tensor grad_input = mask[0] ? like(whole) : Tensor();
  Tensor grad_weight =
      mask[1] ? like(whole_weight.defined() ? whole_weight : at::empty(normalized, input.options()))
              : Tensor();
  Tensor grad_bias =
      mask[2] ? like(whole_weight.defined() ? whole_weight : at::empty(normalized, input.options()))
              : Tensor();
  if (mask[1] || mask[2]) { // partial sums of each thread for weight and bias
    const int64_t columns = c10::multiply_integers(normalized);
    const Tensor partial = at::empty(
        {2, at::get_num_threads(), columns},
        whole_weight.defined() ? whole_weight.options() : input.options());
  }
  return {grad_input, grad_weight, grad_bias};
}

/**
 * Makes cpu's RMS norm, composed of elementwise operators; in float32 for half precision. The result is cast
 * after the other temporaries are freed.
 */
std::tuple<Tensor, Tensor> composed_rms_norm(
    const Tensor& input, at::IntArrayRef normalized, const std::optional<Tensor>& weight) {
  const bool half = is_half(input.scalar_type());
  std::vector<int64_t> dims(normalized.size());
  for (size_t i = 0; i < dims.size(); ++i) dims[i] = input.dim() - 1 - static_cast<int64_t>(i);
  Tensor wide = half ? input.to(at::kFloat) : input;
  Tensor rstd = wide.pow(2).mean(dims, /*keepdim=*/true).rsqrt();
  Tensor out = wide.mul(rstd);
  if (weight && weight->defined()) {
    const Tensor wide_weight = weight->to(out.scalar_type());
    out = out.mul(wide_weight);
  }
  wide.reset();
  return {half ? out.to(input.scalar_type()) : out, rstd};
}

std::tuple<Tensor, Tensor> rms_norm(
    const Tensor& input, at::IntArrayRef normalized, const std::optional<Tensor>& weight,
    std::optional<double> eps) {
  if (!plan_target().cuda) return composed_rms_norm(input, normalized, weight);
  const auto rows = row_shape(input, normalized.size());
  const Tensor whole = input.contiguous(), whole_weight = contiguous_or_none(weight);
  const auto type = is_half(input.scalar_type()) ? at::kFloat : input.scalar_type();
  return {at::empty_like(whole), at::empty(rows, input.options().dtype(type))};
}

std::tuple<Tensor, Tensor> rms_norm_backward(
    const Tensor& grad_out, const Tensor& input, at::IntArrayRef normalized, const Tensor& rstd,
    const std::optional<Tensor>& weight, std::array<bool, 2> mask) {
  const Tensor whole = input.contiguous(), whole_grad = grad_out.contiguous(),
               whole_weight = contiguous_or_none(weight);
  Tensor grad_input = mask[0] ? at::empty_like(whole) : Tensor();
  Tensor grad_weight = mask[1] && whole_weight.defined() ? at::empty_like(whole_weight) : Tensor();
  return {grad_input, grad_weight};
}

} // namespace

void implement_norms(torch::Library& library) {
  library.impl("native_layer_norm", TORCH_FN(layer_norm));
  library.impl("native_layer_norm_backward", TORCH_FN(layer_norm_backward));
  library.impl("_fused_rms_norm", TORCH_FN(rms_norm));
  library.impl("_fused_rms_norm_backward", TORCH_FN(rms_norm_backward));
}

} // namespace lorafit
