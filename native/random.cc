#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>
#include <ATen/ops/empty.h>

#include <cstring>

#include "autograd.h"
#include "handles.h"

namespace lorafit {
namespace {

/** Returns the low 64 bits of a whole number, a bigint or a number. */
uint64_t to_seed(napi_env env, napi_value value) {
  if (type_of(env, value) != napi_bigint) return static_cast<uint64_t>(to_int(env, value, "seed"));
  uint64_t seed;
  bool lossless;
  check(env, napi_get_value_bigint_uint64(env, value, &seed, &lossless));
  return seed;
}

/** Folds the upper 32 bits of a seed into the lower 32 for cpu's generator, which reads only those. */
uint64_t seed_for(c10::Device device, uint64_t seed) {
  const uint64_t high = seed >> 32;
  if (high == 0 || !(device.is_cpu() || device.is_meta())) return seed;
  return (seed ^ (high * 0x9E3779B97F4A7C15ull >> 32)) & 0xFFFFFFFFull;
}

at::Generator new_generator(c10::Device device) {
  if (device.is_cpu() || device.is_meta()) return at::detail::createCPUGenerator();
  return at::globalContext().getAcceleratorHooksInterface(device.type()).getNewGenerator(device.index());
}

} // namespace

napi_value create_generator(const Arguments& arguments) {
  const c10::Device device = to_device(arguments.env, arguments[1], "device");
  at::Generator generator = new_generator(device);
  generator.set_current_seed(seed_for(device, to_seed(arguments.env, arguments[0])));
  return from_double(arguments.env, generators().insert(std::move(generator)));
}

napi_value generator_state(const Arguments& arguments) {
  at::Generator& generator = to_generator(arguments.env, arguments[0], "self");
  const std::lock_guard lock(generator.mutex());
  const at::Tensor state = generator.get_state();
  return from_bytes(arguments.env, state.const_data_ptr(), state.nbytes());
}

napi_value set_generator_state(const Arguments& arguments) {
  at::Generator& generator = to_generator(arguments.env, arguments[0], "self");
  const Bytes bytes = to_bytes(arguments.env, arguments[1], "state");
  at::Tensor state = at::empty({static_cast<int64_t>(bytes.length)}, at::TensorOptions().dtype(at::kByte));
  if (bytes.length > 0) std::memcpy(state.mutable_data_ptr(), bytes.data, bytes.length);
  const std::lock_guard lock(generator.mutex());
  generator.set_state(state);
  return undefined_value(arguments.env);
}

napi_value dispose_generator(const Arguments& arguments) {
  return from_bool(arguments.env, generators().erase(to_double(arguments.env, arguments[0], "handle")));
}

napi_value manual_seed(const Arguments& arguments) {
  at::manual_seed(to_seed(arguments.env, arguments[0]));
  return undefined_value(arguments.env);
}

} // namespace lorafit
