#include "trace.h"

#include <unordered_map>

#include "allocators.h"

namespace lorafit {
namespace {

struct Trace {
  bool on = false;
  double repeats = 1;
  std::unordered_map<std::string, size_t> places; // by key (the values that take_calls returns): index in `calls`
  std::vector<std::pair<const std::string*, double>> calls; // in the order of their first call, with counts
  std::vector<std::string> coming; // keys of copies to the device that were started since the last launch

  void count(const std::string& key) {
    const auto [found, is_new] = places.try_emplace(key, calls.size());
    if (is_new) calls.emplace_back(&found->first, 0);
    calls[found->second].second += repeats;
  }

  void clear() {
    calls.clear();
    places.clear();
    coming.clear();
  }
};

Trace& trace() {
  static auto* one = new Trace;
  return *one;
}

constexpr double kCopy = -1, kExposedCopy = -2; // operators that are not the dispatcher's
constexpr double kCausal = 1, kShared = 2;
constexpr double kStrided = 2; // added to the pool's number: rows or columns are not contiguous
constexpr size_t kFlags = 1; // the place of the flags among a key's values

void append(std::string& key, double value) {
  key.append(reinterpret_cast<const char*>(&value), sizeof value);
}

void append(std::string& key, const at::Tensor& tensor, bool result) {
  if (!tensor.defined()) return;
  append(key, result);
  append(key, static_cast<double>(tensor.scalar_type()));
  const double strided = tensor.is_contiguous() ? 0 : kStrided;
  append(key, static_cast<double>(pool_of(tensor.storage().data_ptr())) + strided);
  append(key, static_cast<double>(tensor.dim()));
  for (const int64_t size : tensor.sizes()) append(key, static_cast<double>(size));
}

void append(std::string& key, const c10::IValue& value, bool result) {
  if (value.isTensor()) append(key, value.toTensor(), result);
  if (value.isTensorList()) {
    for (const at::Tensor& tensor : value.toTensorVector()) append(key, tensor, result);
  }
}

const void* storage_of(const std::vector<c10::IValue>& values) {
  const bool is_tensor = !values.empty() && values[0].isTensor() && values[0].toTensor().defined();
  return is_tensor ? values[0].toTensor().storage().unsafeGetStorageImpl() : nullptr;
}

bool is_causal(const c10::FunctionSchema& schema, const std::vector<c10::IValue>& inputs) {
  const auto flag = schema.argumentIndexWithName("is_causal");
  if (flag) return inputs[*flag].isBool() && inputs[*flag].toBool();
  const auto mask = schema.argumentIndexWithName("custom_mask_type"); // of memory-efficient attention; 0: no mask
  return mask && inputs[*mask].isInt() && inputs[*mask].toInt() != 0;
}

} // namespace

bool TracedCall::tracing() { return trace().on; }

TracedCall::TracedCall(
    const Arguments& arguments, const c10::FunctionSchema& schema, const std::vector<c10::IValue>& inputs)
    : first_storage_(storage_of(inputs)) {
  append(key_, to_double(arguments.env, arguments[0], "id"));
  append(key_, is_causal(schema, inputs) ? kCausal : 0);
  for (const c10::IValue& value : inputs) append(key_, value, false);
}

void TracedCall::finish(const std::vector<c10::IValue>& outputs) {
  for (const c10::IValue& value : outputs) append(key_, value, true);
  if (first_storage_ && storage_of(outputs) == first_storage_) {
    auto* flags = reinterpret_cast<double*>(key_.data()) + kFlags;
    *flags += kShared;
  }
  trace().count(key_);
  if (first_storage_) trace().coming.clear(); // the call reads a tensor, so it is no mere allocation
}

void count_copy(const at::Tensor& to, const at::Tensor& from) {
  if (!trace().on) return;
  std::string key;
  append(key, kCopy);
  append(key, 0);
  append(key, to, false);
  append(key, from, false);
  append(key, to, true);
  trace().count(key);
  if (pool_of(to.storage().data_ptr()) == Pool::kDevice) trace().coming.push_back(std::move(key));
}

napi_value count_exposed(const Arguments& arguments) {
  for (std::string& key : trace().coming) {
    *reinterpret_cast<double*>(key.data()) = kExposedCopy;
    trace().count(key);
  }
  trace().coming.clear();
  return undefined_value(arguments.env);
}

napi_value count_kernel(const Arguments& arguments) {
  napi_env env = arguments.env;
  if (!trace().on) return undefined_value(env);
  std::string key;
  append(key, to_double(env, arguments[0], "id"));
  append(key, 0);
  for (const size_t list : {1, 2}) {
    const uint32_t length = array_length(env, arguments[list], "tensors");
    for (uint32_t at = 0; at < length; ++at)
      append(key, to_tensor(env, element(env, arguments[list], at), "tensors"), list == 2);
  }
  trace().count(key);
  trace().coming.clear();
  return undefined_value(env);
}

napi_value trace_calls(const Arguments& arguments) {
  trace().on = to_bool(arguments.env, arguments[0], "on");
  trace().clear();
  return undefined_value(arguments.env);
}

napi_value take_calls(const Arguments& arguments) {
  std::vector<double> values;
  for (const auto& [key, count] : trace().calls) {
    const auto* parts = reinterpret_cast<const double*>(key->data());
    const size_t length = key->size() / sizeof(double);
    values.push_back(static_cast<double>(length + 1));
    values.push_back(count);
    values.insert(values.end(), parts, parts + length);
  }
  trace().clear();
  return from_bytes(arguments.env, values.data(), values.size() * sizeof(double));
}

napi_value set_repeats(const Arguments& arguments) {
  const double before = trace().repeats;
  trace().repeats = to_double(arguments.env, arguments[0], "repeats");
  return from_double(arguments.env, before);
}

} // namespace lorafit
