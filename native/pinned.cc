#include "pinned.h"

#include <ATen/core/CachingHostAllocator.h>
#include <c10/core/Event.h>
#include <dlfcn.h>

#include <limits>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "allocators.h"

namespace lorafit {
namespace {

constexpr size_t kPageBytes = 4096;
/**
 * Bytes that all blocks together may exceed the most that was in use at once: copies of one micro-batch may
 * still run while the next is queued.
 */
constexpr size_t kAheadBytes = size_t{256} << 20;

/** Returns a function of the CUDA runtime, which libtorch_cuda has loaded. */
template <typename Function>
Function runtime_function(const char* name) {
  auto* function = reinterpret_cast<Function>(dlsym(RTLD_DEFAULT, name));
  TORCH_CHECK(function, "the CUDA runtime has no ", name);
  return function;
}

/** Returns the bytes that the host pool's cap leaves for blocks that are not in use. */
size_t spare_bytes() {
  const PoolStats host = stats_of(c10::kCPU, Pool::kHost);
  if (host.cap < 0) return std::numeric_limits<size_t>::max() / 2;
  return static_cast<size_t>(std::max<int64_t>(0, host.cap - host.live));
}

/** A range of pinned pages: in use, waiting for copies from or to it, or idle. */
struct PinnedBlock {
  char* data;
  size_t bytes;
  Block booked;
  /** The last copy on each stream; earlier copies are done when it is done. */
  std::vector<std::pair<c10::Stream, c10::Event>> copies;

  c10::Event& last_copy_on(const c10::Stream& stream) {
    for (auto& [known, event] : copies) {
      if (known == stream) return event;
    }
    return copies.emplace_back(stream, c10::Event(stream.device_type())).second;
  }

  void wait() {
    for (auto& [_, event] : copies) event.synchronize();
  }

  bool at_rest() {
    std::erase_if(copies, [](const auto& copy) { return copy.second.query(); });
    return copies.empty();
  }
};

/**
 * Blocks are kept for reuse, because pinning takes milliseconds. Together they exceed the most that was in
 * use at once by kAheadBytes at most, and never the host pool's cap.
 *
 * A freed block is not reused before its copies are done. If a new block would exceed the bound, the
 * allocator waits for those copies. The card is not idle meanwhile: the work that frees the oldest block is
 * long queued, with much behind it.
 */
class PinnedAllocator final : public at::HostAllocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, c10::Device(c10::kCPU)};
    const Block booked = book(c10::kCPU, static_cast<int64_t>(bytes));
    try {
      const std::lock_guard lock(mutex_);
      PinnedBlock* block = take((bytes + kPageBytes - 1) / kPageBytes * kPageBytes);
      block->booked = booked;
      booked_bytes_ += bytes;
      in_use_.emplace(block->data, block);
      return {block->data, block, &release, c10::Device(c10::kCPU)};
    } catch (...) {
      unbook(c10::kCPU, booked);
      throw;
    }
  }

  /** Called by asynchronous copies; `context` is the block's, or the context of memory of another kind. */
  bool record_event(void* data, void* context, c10::Stream stream) override {
    const std::lock_guard lock(mutex_);
    PinnedBlock* block = find(static_cast<char*>(data));
    if (!block) return false;
    block->last_copy_on(stream).record(stream);
    return true;
  }

  void empty_cache() override {
    const std::lock_guard lock(mutex_);
    settle();
    free_idle(0);
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }
  at::HostStats get_stats() override { return {}; }
  void reset_accumulated_stats() override {}
  void reset_peak_stats() override {}

 private:
  using HostAlloc = int (*)(void**, size_t, unsigned);
  using FreeHost = int (*)(void*);

  static void release(void* context) {
    auto* block = static_cast<PinnedBlock*>(context);
    unbook(c10::kCPU, block->booked);
    PinnedAllocator& owner = *static_cast<PinnedAllocator*>(at::getHostAllocator(c10::kCUDA));
    const std::lock_guard lock(owner.mutex_);
    owner.in_use_.erase(block->data);
    owner.in_use_bytes_ -= block->bytes;
    owner.booked_bytes_ -= block->booked.bytes;
    owner.waiting_bytes_ += block->bytes;
    owner.waiting_.push_back(block);
  }

  /** Returns an idle block that is at most a quarter too large, or a new block. */
  PinnedBlock* take(size_t bytes) {
    settle();
    PinnedBlock* block = take_idle(bytes);
    most_in_use_bytes_ = std::max(most_in_use_bytes_, in_use_bytes_ + bytes);
    const size_t bound = std::min(most_in_use_bytes_ + kAheadBytes, booked_bytes_ + bytes + spare_bytes());
    while (!block && !waiting_.empty() && in_use_bytes_ + waiting_bytes_ + bytes > bound) {
      waiting_.front()->wait();
      settle();
      block = take_idle(bytes);
    }
    if (!block) {
      const size_t taken = in_use_bytes_ + waiting_bytes_ + bytes;
      free_idle(std::min(most_in_use_bytes_ - in_use_bytes_ - bytes, bound - std::min(bound, taken)));
      block = new PinnedBlock{pin(bytes), bytes, {}, {}};
    }
    in_use_bytes_ += block->bytes;
    most_in_use_bytes_ = std::max(most_in_use_bytes_, in_use_bytes_);
    return block;
  }

  PinnedBlock* take_idle(size_t bytes) {
    const auto fits = idle_.lower_bound(bytes);
    if (fits == idle_.end() || fits->first > bytes + bytes / 4) return nullptr;
    PinnedBlock* block = fits->second;
    idle_bytes_ -= block->bytes;
    idle_.erase(fits);
    return block;
  }

  char* pin(size_t bytes) {
    static const auto host_alloc = runtime_function<HostAlloc>("cudaHostAlloc");
    static const auto forget_error = runtime_function<int (*)()>("cudaGetLastError");
    constexpr unsigned kPortable = 1; // pinned for every card
    void* data = nullptr;
    if (host_alloc(&data, bytes, kPortable) == 0) return static_cast<char*>(data);
    forget_error(); // otherwise the next kernel launch would report this error
    for (PinnedBlock* block : waiting_) block->wait();
    settle();
    free_idle(0);
    if (host_alloc(&data, bytes, kPortable) == 0) return static_cast<char*>(data);
    forget_error();
    throw OutOfPool(
        static_cast<int64_t>(bytes), stats_of(c10::kCPU, Pool::kHost).live, -1, c10::kCPU, Pool::kHost);
  }

  /** Makes blocks idle if their copies are done. */
  void settle() {
    for (auto next = waiting_.begin(); next != waiting_.end();) { // one by one: querying a lost card throws
      PinnedBlock* block = *next;
      if (!block->at_rest()) {
        ++next;
        continue;
      }
      next = waiting_.erase(next);
      waiting_bytes_ -= block->bytes;
      idle_.emplace(block->bytes, block);
      idle_bytes_ += block->bytes;
    }
  }

  /** Returns idle blocks to the system, the largest first, until at most so many bytes are left. */
  void free_idle(size_t bytes) {
    static const auto free_host = runtime_function<FreeHost>("cudaFreeHost");
    while (idle_bytes_ > bytes) {
      const auto largest = std::prev(idle_.end());
      idle_bytes_ -= largest->first;
      free_host(largest->second->data);
      delete largest->second;
      idle_.erase(largest);
    }
  }

  PinnedBlock* find(char* data) {
    auto after = in_use_.upper_bound(data);
    if (after == in_use_.begin()) return nullptr;
    PinnedBlock* block = std::prev(after)->second;
    return data < block->data + block->bytes ? block : nullptr;
  }

  std::mutex mutex_;
  std::map<char*, PinnedBlock*> in_use_;
  std::vector<PinnedBlock*> waiting_;
  std::multimap<size_t, PinnedBlock*> idle_;
  size_t idle_bytes_ = 0, in_use_bytes_ = 0, waiting_bytes_ = 0, most_in_use_bytes_ = 0;
  size_t booked_bytes_ = 0; // requested sizes of blocks in use
};

} // namespace

void install_pinned_allocator() {
  constexpr uint8_t kPriority = 1; // above libtorch's own
  static auto* allocator = new PinnedAllocator;
  at::setHostAllocator(c10::kCUDA, allocator, kPriority);
}

} // namespace lorafit
