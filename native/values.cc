#include "values.h"

#include <cmath>
#include <cstring>

#include "cuda.h"
#include "handles.h"

namespace lorafit {

void check(napi_env env, napi_status status) {
  if (status == napi_ok) return;
  bool pending = false;
  napi_is_exception_pending(env, &pending);
  if (pending) throw PendingException();
  const napi_extended_error_info* info = nullptr;
  napi_get_last_error_info(env, &info);
  throw ArgumentError(info && info->error_message ? info->error_message : "a Node-API call failed");
}

napi_valuetype type_of(napi_env env, napi_value value) {
  napi_valuetype type;
  check(env, napi_typeof(env, value, &type));
  return type;
}

static std::string string_of(napi_env env, napi_value value) {
  size_t length = 0;
  check(env, napi_get_value_string_utf8(env, value, nullptr, 0, &length));
  std::string text(length, '\0');
  check(env, napi_get_value_string_utf8(env, value, text.data(), length + 1, &length));
  return text;
}

std::string describe(napi_env env, napi_value value) {
  bool is_array = false;
  check(env, napi_is_array(env, value, &is_array));
  if (is_array) return "array";
  switch (type_of(env, value)) {
    case napi_undefined: return "undefined";
    case napi_null: return "null";
    case napi_boolean: return "boolean";
    case napi_number: return "number";
    case napi_string: return "string";
    case napi_function: return "function";
    case napi_bigint: return "bigint";
    case napi_symbol: {
      napi_value description;
      check(env, napi_get_named_property(env, value, "description", &description));
      return type_of(env, description) == napi_string ? string_of(env, description) : "symbol";
    }
    default: return "object";
  }
}

void reject(napi_env env, napi_value value, const std::string& name, const char* expected) {
  throw ArgumentError("argument \"" + name + "\" must be " + expected + ", got " + describe(env, value));
}

double to_double(napi_env env, napi_value value, const char* name) {
  double number;
  if (napi_get_value_double(env, value, &number) != napi_ok) reject(env, value, name, "a number");
  return number;
}

int64_t to_int(napi_env env, napi_value value, const char* name) {
  double number;
  if (napi_get_value_double(env, value, &number) == napi_ok) {
    if (!(std::abs(number) <= 9007199254740992.0) || number != std::trunc(number)) {
      throw ArgumentError(
          "argument \"" + std::string(name) + "\" must be a whole number, got " + std::to_string(number));
    }
    return static_cast<int64_t>(number);
  }
  int64_t integer;
  bool lossless = false;
  if (napi_get_value_bigint_int64(env, value, &integer, &lossless) != napi_ok || !lossless) {
    reject(env, value, name, "a whole number of 64 bits");
  }
  return integer;
}

bool to_bool(napi_env env, napi_value value, const char* name) {
  bool flag;
  if (napi_get_value_bool(env, value, &flag) != napi_ok) reject(env, value, name, "a boolean");
  return flag;
}

std::string to_string(napi_env env, napi_value value, const char* name) {
  if (type_of(env, value) != napi_string) reject(env, value, name, "a string");
  return string_of(env, value);
}

uint32_t array_length(napi_env env, napi_value value, const char* name) {
  uint32_t length;
  if (napi_get_array_length(env, value, &length) != napi_ok) reject(env, value, name, "an array");
  return length;
}

napi_value element(napi_env env, napi_value array, uint32_t index) {
  napi_value value;
  check(env, napi_get_element(env, array, index, &value));
  return value;
}

std::vector<int64_t> to_ints(napi_env env, napi_value value, const char* name) {
  const uint32_t length = array_length(env, value, name);
  std::vector<int64_t> ints(length);
  for (uint32_t i = 0; i < length; ++i) ints[i] = to_int(env, element(env, value, i), name);
  return ints;
}

Bytes to_bytes(napi_env env, napi_value view, const char* name) {
  bool matches = false;
  check(env, napi_is_typedarray(env, view, &matches));
  if (!matches) reject(env, view, name, "a typed array");
  napi_typedarray_type type;
  size_t elements;
  void* data;
  check(env, napi_get_typedarray_info(env, view, &type, &elements, &data, nullptr, nullptr));
  static constexpr size_t kItemBytes[] = {1, 1, 1, 2, 2, 4, 4, 4, 8, 8, 8};
  if (static_cast<size_t>(type) >= std::size(kItemBytes))
    reject(env, view, name, "a typed array of a known type");
  return {static_cast<const uint8_t*>(data), elements * kItemBytes[type]};
}

at::Tensor& to_tensor(napi_env env, napi_value value, const char* name) {
  double handle;
  if (napi_get_value_double(env, value, &handle) != napi_ok) reject(env, value, name, "a Tensor");
  at::Tensor* tensor = tensors().find(handle);
  if (!tensor) throw ArgumentError("argument \"" + std::string(name) + "\" is a disposed tensor");
  return *tensor;
}

std::vector<at::Tensor> to_tensors(napi_env env, napi_value value, const char* name) {
  const uint32_t length = array_length(env, value, name);
  std::vector<at::Tensor> found(length);
  for (uint32_t i = 0; i < length; ++i) {
    napi_value item = element(env, value, i);
    if (type_of(env, item) != napi_null) found[i] = to_tensor(env, item, name);
  }
  return found;
}

at::Generator& to_generator(napi_env env, napi_value value, const char* name) {
  double handle;
  if (napi_get_value_double(env, value, &handle) != napi_ok) reject(env, value, name, "a Generator");
  at::Generator* generator = generators().find(handle);
  if (!generator) throw ArgumentError("argument \"" + std::string(name) + "\" is a disposed generator");
  return *generator;
}

at::ScalarType to_dtype(napi_env env, napi_value value, const char* name) {
  double code;
  if (napi_get_value_double(env, value, &code) != napi_ok || !(code >= 0) ||
      code >= static_cast<double>(at::ScalarType::Undefined)) {
    reject(env, value, name, "a dtype");
  }
  return static_cast<at::ScalarType>(static_cast<int8_t>(code));
}

c10::Device to_device(napi_env env, napi_value value, const char* name) {
  double code;
  if (napi_get_value_double(env, value, &code) != napi_ok || !(code >= 0) || code >= 256 * 64) {
    reject(env, value, name, "a device");
  }
  const int bits = static_cast<int>(code);
  if (static_cast<c10::DeviceType>(bits / 256) == c10::kCUDA) ensure_cuda();
  return {static_cast<c10::DeviceType>(bits / 256), static_cast<c10::DeviceIndex>(bits % 256 - 1)};
}

napi_value from_double(napi_env env, double value) {
  napi_value result;
  check(env, napi_create_double(env, value, &result));
  return result;
}

napi_value from_bool(napi_env env, bool value) {
  napi_value result;
  check(env, napi_get_boolean(env, value, &result));
  return result;
}

napi_value from_string(napi_env env, const std::string& value) {
  napi_value result;
  check(env, napi_create_string_utf8(env, value.data(), value.size(), &result));
  return result;
}

napi_value from_ints(napi_env env, at::IntArrayRef values) {
  napi_value array = new_array(env, values.size());
  for (size_t i = 0; i < values.size(); ++i)
    set_element(env, array, i, from_double(env, static_cast<double>(values[i])));
  return array;
}

napi_value null_value(napi_env env) {
  napi_value result;
  check(env, napi_get_null(env, &result));
  return result;
}

napi_value undefined_value(napi_env env) {
  napi_value result;
  check(env, napi_get_undefined(env, &result));
  return result;
}

napi_value from_tensor(napi_env env, at::Tensor tensor) {
  return tensor.defined() ? from_double(env, tensors().insert(std::move(tensor))) : null_value(env);
}

napi_value from_tensors(napi_env env, const std::vector<at::Tensor>& list) {
  napi_value array = new_array(env, list.size());
  for (size_t i = 0; i < list.size(); ++i) set_element(env, array, i, from_tensor(env, list[i]));
  return array;
}

napi_value from_bytes(napi_env env, const void* data, size_t length) {
  void* copy = nullptr;
  napi_value buffer, view;
  check(env, napi_create_arraybuffer(env, length, &copy, &buffer));
  if (length > 0) std::memcpy(copy, data, length);
  check(env, napi_create_typedarray(env, napi_uint8_array, length, buffer, 0, &view));
  return view;
}

napi_value new_array(napi_env env, size_t length) {
  napi_value array;
  check(env, napi_create_array_with_length(env, length, &array));
  return array;
}

void set_element(napi_env env, napi_value array, uint32_t index, napi_value value) {
  check(env, napi_set_element(env, array, index, value));
}

void set_property(napi_env env, napi_value object, const char* name, napi_value value) {
  check(env, napi_set_named_property(env, object, name, value));
}

std::string describe(const at::Tensor& tensor) {
  if (!tensor.defined()) return "none";
  std::string text = c10::toString(tensor.scalar_type());
  static constexpr std::pair<at::ScalarType, const char*> kNames[] = {
      {at::kByte, "uint8"},
      {at::kChar, "int8"},
      {at::kShort, "int16"},
      {at::kInt, "int32"},
      {at::kLong, "int64"},
      {at::kHalf, "float16"},
      {at::kFloat, "float32"},
      {at::kDouble, "float64"},
      {at::kBool, "bool"},
      {at::kUInt16, "uint16"},
      {at::kUInt32, "uint32"},
      {at::kUInt64, "uint64"},
      {at::kBFloat16, "bfloat16"},
      {at::kFloat8_e5m2, "float8_e5m2"},
      {at::kFloat8_e4m3fn, "float8_e4m3fn"}};
  for (const auto& [type, name] : kNames) {
    if (type == tensor.scalar_type()) text = name;
  }
  text += "[";
  for (int64_t i = 0; i < tensor.dim(); ++i) text += (i ? ", " : "") + std::to_string(tensor.size(i));
  return text + "] " + tensor.device().str();
}

} // namespace lorafit
