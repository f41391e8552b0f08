#include "card_memory.h"

#include <c10/core/CachingDeviceAllocator.h>
#include <torch/csrc/profiler/orchestration/observer.h>

#include <cstdlib>
#include <mutex>
#include <unordered_map>

#include "cuda.h"

namespace lorafit {
namespace {

using torch::profiler::impl::ProfilerConfig;
using torch::profiler::impl::ProfilerState;

/**
 * Receives every block that a caching allocator allocates or frees: libtorch reports them to a profiler that
 * tracks memory. This profiler is disabled in all other respects.
 */
class CardBooks final : public torch::profiler::impl::ProfilerStateBase {
 public:
  CardBooks() : ProfilerStateBase(memory_only()) {}

  torch::profiler::impl::ActiveProfilerType profilerType() override {
    return torch::profiler::impl::ActiveProfilerType::NONE;
  }

  void reportMemoryUsage(void* data, int64_t bytes, size_t, size_t, c10::Device device) override {
    if (!device.is_cuda()) return;
    const std::lock_guard lock(mutex_);
    const auto known = blocks_.find(data);
    if (known != blocks_.end()) { // freed now, or earlier by a thread without this profiler
      unbook(device, known->second);
      blocks_.erase(known);
    }
    if (bytes > 0) blocks_.emplace(data, book_given(device, bytes));
  }

  void reportOutOfMemory(int64_t bytes, size_t allocated, size_t, c10::Device device) override {
    const std::lock_guard lock(mutex_);
    const int64_t cap = stats_of(device, Pool::kDevice).cap;
    refusal_.emplace(bytes, static_cast<int64_t>(allocated), cap, device, Pool::kDevice);
  }

  std::optional<OutOfPool> take_refusal() {
    const std::lock_guard lock(mutex_);
    return std::exchange(refusal_, std::nullopt);
  }

 private:
  static ProfilerConfig memory_only() {
    return ProfilerConfig(ProfilerState::Disabled, /*report_input_shapes=*/false, /*profile_memory=*/true);
  }

  std::mutex mutex_;
  std::unordered_map<void*, Block> blocks_;
  std::optional<OutOfPool> refusal_;
};

const std::shared_ptr<CardBooks>& card_books() {
  static auto* books = new std::shared_ptr<CardBooks>(std::make_shared<CardBooks>());
  return *books;
}

} // namespace

/**
 * The first methods that libtorch 2.11's CUDAAllocator adds to DeviceAllocator, in its order. Its header,
 * c10/cuda/CUDACachingAllocator.h, needs CUDA's own headers.
 *
 * No object of this class is ever made: a pointer to libtorch's allocator is cast to it. The class stands
 * outside the unnamed namespace: inside, the compiler would see that nobody implements it, and call nothing.
 */
class CudaAllocatorStart : public c10::DeviceAllocator {
 public:
  virtual void* raw_alloc(size_t bytes) = 0;
  virtual void* raw_alloc_with_stream(size_t bytes, void* stream) = 0;
  virtual void raw_delete(void* data) = 0;
  virtual void init(int devices) = 0;
  virtual double getMemoryFraction(c10::DeviceIndex device) = 0;
  virtual void setMemoryFraction(double fraction, c10::DeviceIndex device) = 0;
};

void configure_card_allocator() {
  if (std::getenv("PYTORCH_ALLOC_CONF") || std::getenv("PYTORCH_CUDA_ALLOC_CONF")) return;
  setenv("PYTORCH_ALLOC_CONF", "expandable_segments:True", /*overwrite=*/0);
}

void book_cards() { torch::profiler::impl::ProfilerStateBase::push(card_books()); }

void cap_card(c10::Device device, std::optional<int64_t> bytes) {
  ensure_cuda();
  auto* allocator = static_cast<CudaAllocatorStart*>(c10::getDeviceAllocator(c10::kCUDA));
  const auto total = static_cast<double>(allocator->getMemoryInfo(device.index()).second);
  const double fraction = bytes ? std::min(1.0, static_cast<double>(*bytes) / total) : 1.0;
  allocator->setMemoryFraction(fraction, device.index());
  TORCH_CHECK(
      std::abs(allocator->getMemoryFraction(device.index()) - fraction) < 1e-9,
      "libtorch's allocator does not take a cap of memory");
}

void reset_card_peaks(c10::Device device) {
  ensure_cuda();
  c10::getDeviceAllocator(c10::kCUDA)->resetPeakStats(device.index());
}

std::optional<OutOfPool> take_card_refusal() { return card_books()->take_refusal(); }

} // namespace lorafit
