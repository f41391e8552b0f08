// Conversions of JavaScript values, and the errors that say what is wrong with a value.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>
#include <node_api.h>

#include <array>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

namespace lorafit {

/** Thrown if a JavaScript exception is already pending. */
struct PendingException {};

/** A value of a wrong type or range; becomes a TypeError. */
struct ArgumentError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/** Like ArgumentError for an operator's argument; its message names the operator. */
struct OperatorError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/** Returns the first line of an error's text, without the lines that only give the place. */
inline std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

/** Throws if a Node-API call failed: PendingException, or ArgumentError with Node's reason. */
void check(napi_env env, napi_status status);

/** The arguments of one call from JavaScript; missing arguments read as undefined. */
class Arguments {
 public:
  static constexpr size_t kMost = 32;
  Arguments(napi_env env, napi_callback_info info) : env(env) {
    check(env, napi_get_cb_info(env, info, &count, values_.data(), nullptr, &name_));
  }
  napi_value operator[](size_t index) const { return values_[index]; }

  /** Name of the called function, as exported. */
  const char* name() const { return static_cast<const char*>(name_); }

  const napi_env env;
  size_t count = kMost;

 private:
  std::array<napi_value, kMost> values_;
  void* name_ = nullptr;
};

/**
 * Returns "number", "string", "array", ...; for a symbol its description, which is how TypeScript names
 * values that are no tensors.
 */
std::string describe(napi_env env, napi_value value);
/** Throws ArgumentError: `name` must be `expected`, got the type of `value`. */
[[noreturn]] void reject(napi_env env, napi_value value, const std::string& name, const char* expected);

napi_valuetype type_of(napi_env env, napi_value value);
double to_double(napi_env env, napi_value value, const char* name);
/** Whole numbers only, as number or bigint. */
int64_t to_int(napi_env env, napi_value value, const char* name);
bool to_bool(napi_env env, napi_value value, const char* name);
std::string to_string(napi_env env, napi_value value, const char* name);
uint32_t array_length(napi_env env, napi_value value, const char* name);
napi_value element(napi_env env, napi_value array, uint32_t index);
std::vector<int64_t> to_ints(napi_env env, napi_value value, const char* name);
/** Bytes of an ArrayBuffer view, valid during the call. */
struct Bytes {
  const uint8_t* data;
  size_t length;
};
Bytes to_bytes(napi_env env, napi_value view, const char* name);

/** Returns the tensor of a handle; throws if there is none or it is disposed. */
at::Tensor& to_tensor(napi_env env, napi_value value, const char* name);
/** Returns the tensors of an array of handles; null is an undefined tensor. */
std::vector<at::Tensor> to_tensors(napi_env env, napi_value value, const char* name);
at::Generator& to_generator(napi_env env, napi_value value, const char* name);
/** Returns the scalar type with this number in c10. */
at::ScalarType to_dtype(napi_env env, napi_value value, const char* name);
/** Returns the device of a number: type * 256 + index + 1. */
c10::Device to_device(napi_env env, napi_value value, const char* name);

napi_value from_double(napi_env env, double value);
napi_value from_bool(napi_env env, bool value);
napi_value from_string(napi_env env, const std::string& value);
napi_value from_ints(napi_env env, at::IntArrayRef values);
napi_value null_value(napi_env env);
napi_value undefined_value(napi_env env);
/** Returns a new handle that holds the tensor, or null for an undefined tensor. */
napi_value from_tensor(napi_env env, at::Tensor tensor);
napi_value from_tensors(napi_env env, const std::vector<at::Tensor>& tensors);
/** Returns a Uint8Array with a copy of the bytes. */
napi_value from_bytes(napi_env env, const void* data, size_t length);
/** Returns an array to be filled with set_element. */
napi_value new_array(napi_env env, size_t length);
void set_element(napi_env env, napi_value array, uint32_t index, napi_value value);
void set_property(napi_env env, napi_value object, const char* name, napi_value value);

/** Returns a description such as "float32[2, 3] cpu". */
std::string describe(const at::Tensor& tensor);

} // namespace lorafit
