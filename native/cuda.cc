#include "cuda.h"

#include <ATen/Context.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include "card_memory.h"
#include "cpu_memory.h"
#include "pinned.h"

namespace lorafit {
namespace {

c10::DeviceAllocator& allocator_of(c10::Device device) {
  auto* allocator = c10::getDeviceAllocator(device.type());
  TORCH_CHECK(allocator && allocator->initialized(), "no memory of ", device, " is in use yet");
  return *allocator;
}

} // namespace

void ensure_cuda() {
  static bool loaded = false;
  if (loaded) return;
  Dl_info library;
  TORCH_CHECK(
      dladdr(reinterpret_cast<void*>(&at::globalContext), &library), "libtorch's own folder can't be found");
  const std::string beside = library.dli_fname;
  const std::string path = beside.substr(0, beside.rfind('/')) + "/libtorch_cuda.so";
  configure_card_allocator();
  // Resolved lazily and globally, as libtorch's own loader does: its parts look up each other's symbols.
  TORCH_CHECK(dlopen(path.c_str(), RTLD_LAZY | RTLD_GLOBAL), "CUDA can't be used: ", dlerror());
  TORCH_CHECK(at::globalContext().hasCUDA(), "CUDA can't be used: no device or no driver was found");
  install_pinned_allocator();
  at::globalContext().lazyInitDevice(c10::kCUDA);
  book_cards();
  loaded = true;
}

napi_value load_cuda(const Arguments& arguments) {
  ensure_cuda();
  return from_double(arguments.env, c10::impl::VirtualGuardImpl(c10::kCUDA).deviceCount());
}

napi_value use_card(const Arguments& arguments) {
  const c10::Device device = to_device(arguments.env, arguments[0], "device");
  c10::impl::VirtualGuardImpl(device.type()).setDevice(device);
  return undefined_value(arguments.env);
}

napi_value synchronize_device(const Arguments& arguments) {
  const c10::Device device = to_device(arguments.env, arguments[0], "device");
  if (!device.is_cpu() && !device.is_meta())
    c10::impl::VirtualGuardImpl(device.type()).synchronizeDevice(device.index());
  return undefined_value(arguments.env);
}

napi_value empty_device_cache(const Arguments& arguments) {
  const c10::Device device = to_device(arguments.env, arguments[0], "device");
  if (device.is_cpu()) {
    trim_cpu_memory();
  } else {
    allocator_of(device).emptyCache();
  }
  return undefined_value(arguments.env);
}

napi_value device_memory(const Arguments& arguments) {
  const c10::Device device = to_device(arguments.env, arguments[0], "device");
  c10::DeviceAllocator& allocator = allocator_of(device);
  const auto stats = allocator.getDeviceStats(device.index());
  const auto [free, total] = allocator.getMemoryInfo(device.index());
  constexpr auto kAll = static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE);
  const auto& allocated = stats.allocated_bytes[kAll];
  const auto& reserved = stats.reserved_bytes[kAll];
  const std::vector<int64_t> numbers{
      static_cast<int64_t>(total),
      static_cast<int64_t>(free),
      allocated.current,
      allocated.peak,
      reserved.current,
      reserved.peak};
  return from_ints(arguments.env, numbers);
}

} // namespace lorafit
