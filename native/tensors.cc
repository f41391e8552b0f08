#include "tensors.h"

#include <ATen/ops/empty.h>
#include <c10/util/safe_numerics.h>

#include <cstring>

#include "handles.h"

namespace lorafit {

napi_value tensor_from_bytes(const Arguments& arguments) {
  napi_env env = arguments.env;
  const Bytes bytes = to_bytes(env, arguments[0], "data");
  const at::ScalarType dtype = to_dtype(env, arguments[1], "dtype");
  const std::vector<int64_t> shape = to_ints(env, arguments[2], "shape");
  at::Tensor tensor = at::empty(shape, at::TensorOptions().dtype(dtype));
  TORCH_CHECK(
      tensor.nbytes() == bytes.length, "a tensor of shape ", at::IntArrayRef(shape), " takes ",
      tensor.nbytes(), " bytes, and the array has ", bytes.length);
  if (bytes.length > 0) std::memcpy(tensor.mutable_data_ptr(), bytes.data, bytes.length);
  return from_tensor(env, std::move(tensor));
}

napi_value tensor_to_bytes(const Arguments& arguments) {
  const at::Tensor& tensor = to_tensor(arguments.env, arguments[0], "self");
  TORCH_CHECK(
      tensor.device().is_cpu() && tensor.is_contiguous(), "only a contiguous cpu tensor has bytes to read");
  return from_bytes(arguments.env, tensor.const_data_ptr(), tensor.nbytes());
}

napi_value tensor_item(const Arguments& arguments) {
  const at::Tensor& tensor = to_tensor(arguments.env, arguments[0], "self");
  TORCH_CHECK(tensor.numel() == 1, "item: a tensor of one element is needed, got ", describe(tensor));
  TORCH_CHECK(!tensor.is_meta(), "item: a meta tensor has no data");
  return from_double(arguments.env, tensor.item().toDouble());
}

napi_value tensor_shape(const Arguments& arguments) {
  return from_ints(arguments.env, to_tensor(arguments.env, arguments[0], "self").sizes());
}

napi_value tensor_strides(const Arguments& arguments) {
  return from_ints(arguments.env, to_tensor(arguments.env, arguments[0], "self").strides());
}

napi_value tensor_dtype(const Arguments& arguments) {
  return from_double(
      arguments.env, static_cast<double>(to_tensor(arguments.env, arguments[0], "self").scalar_type()));
}

napi_value tensor_device(const Arguments& arguments) {
  const c10::Device device = to_tensor(arguments.env, arguments[0], "self").device();
  return from_double(arguments.env, static_cast<int>(device.type()) * 256 + device.index() + 1);
}

napi_value tensor_is_contiguous(const Arguments& arguments) {
  return from_bool(arguments.env, to_tensor(arguments.env, arguments[0], "self").is_contiguous());
}

napi_value dispose_tensor(const Arguments& arguments) {
  return from_bool(arguments.env, tensors().erase(to_double(arguments.env, arguments[0], "handle")));
}

napi_value dispose_tensors(const Arguments& arguments) {
  const uint32_t length = array_length(arguments.env, arguments[0], "handles");
  for (uint32_t i = 0; i < length; ++i) {
    tensors().erase(to_double(arguments.env, element(arguments.env, arguments[0], i), "handles"));
  }
  return undefined_value(arguments.env);
}

napi_value live_tensors(const Arguments& arguments) {
  return from_double(arguments.env, static_cast<double>(tensors().live()));
}

} // namespace lorafit
