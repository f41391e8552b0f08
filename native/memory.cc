#include "memory.h"

#include "allocators.h"
#include "card_memory.h"
#include "cpu_memory.h"

namespace lorafit {
namespace {

Pool to_pool(napi_env env, napi_value value) {
  const int64_t pool = to_int(env, value, "pool");
  TORCH_CHECK(pool >= 0 && pool < static_cast<int64_t>(kPools), "no pool has the number ", pool);
  return static_cast<Pool>(pool);
}

c10::Device to_tracked(napi_env env, napi_value value) { return to_device(env, value, "device"); }

} // namespace

napi_value set_pool(const Arguments& arguments) {
  const Pool before = current_booking().pool;
  current_booking().pool = to_pool(arguments.env, arguments[0]);
  return from_double(arguments.env, static_cast<double>(before));
}

napi_value set_category(const Arguments& arguments) {
  const uint8_t before = current_booking().category;
  const int64_t category = to_int(arguments.env, arguments[0], "category");
  TORCH_CHECK(
      category >= 0 && category < static_cast<int64_t>(kCategories), "no category has the number ", category);
  current_booking().category = static_cast<uint8_t>(category);
  return from_double(arguments.env, before);
}

napi_value memory_stats(const Arguments& arguments) {
  const PoolStats stats =
      stats_of(to_tracked(arguments.env, arguments[0]), to_pool(arguments.env, arguments[1]));
  std::vector<int64_t> numbers{stats.live, stats.peak, stats.cap, stats.count, stats.blocks};
  numbers.insert(numbers.end(), stats.live_by_category.begin(), stats.live_by_category.end());
  numbers.insert(numbers.end(), stats.peak_by_category.begin(), stats.peak_by_category.end());
  return from_ints(arguments.env, numbers);
}

napi_value cpu_memory(const Arguments& arguments) {
  const ArenaStats stats = cpu_memory_stats();
  return from_ints(
      arguments.env, {stats.live, stats.most_live, stats.cached, stats.fresh, stats.given_back});
}

napi_value reset_memory_peak(const Arguments& arguments) {
  const c10::Device device = to_tracked(arguments.env, arguments[0]);
  const Pool pool = to_pool(arguments.env, arguments[1]);
  reset_peak(device, pool);
  if (device.is_cuda() && pool == Pool::kDevice) reset_card_peaks(device);
  return undefined_value(arguments.env);
}

napi_value set_memory_cap(const Arguments& arguments) {
  const bool none = type_of(arguments.env, arguments[2]) == napi_undefined;
  const auto bytes = none ? std::nullopt : std::optional(to_int(arguments.env, arguments[2], "bytes"));
  const c10::Device device = to_tracked(arguments.env, arguments[0]);
  const Pool pool = to_pool(arguments.env, arguments[1]);
  if (device.is_cuda() && pool == Pool::kDevice) cap_card(device, bytes);
  set_cap(device, pool, bytes);
  return undefined_value(arguments.env);
}

napi_value inject_failure(const Arguments& arguments) {
  fail_at_allocation(to_tracked(arguments.env, arguments[0]), to_int(arguments.env, arguments[1], "n"));
  return undefined_value(arguments.env);
}

napi_value record_memory(const Arguments& arguments) {
  record_allocations(to_tracked(arguments.env, arguments[0]), to_bool(arguments.env, arguments[1], "on"));
  return undefined_value(arguments.env);
}

napi_value take_memory_record(const Arguments& arguments) {
  const std::vector<AllocationEvent> events = take_allocations(to_tracked(arguments.env, arguments[0]));
  std::vector<double> ids, bytes;
  std::vector<uint8_t> pools, categories;
  for (const AllocationEvent& event : events) {
    ids.push_back(static_cast<double>(event.id));
    bytes.push_back(static_cast<double>(event.bytes));
    pools.push_back(static_cast<uint8_t>(event.pool));
    categories.push_back(event.category);
  }
  napi_env env = arguments.env;
  napi_value record = new_array(env, 4);
  set_element(env, record, 0, from_bytes(env, ids.data(), ids.size() * sizeof(double)));
  set_element(env, record, 1, from_bytes(env, bytes.data(), bytes.size() * sizeof(double)));
  set_element(env, record, 2, from_bytes(env, pools.data(), pools.size()));
  set_element(env, record, 3, from_bytes(env, categories.data(), categories.size()));
  return record;
}

} // namespace lorafit
