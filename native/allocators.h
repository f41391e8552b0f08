// Tracking allocators of the cpu and meta devices. They count what is alive, by pool and category, and
// enforce caps. Cards are tracked as well, through the reports of libtorch's own allocator (card_memory.h).
#pragma once

#include <c10/core/Allocator.h>
#include <c10/core/Device.h>
#include <c10/util/Exception.h>

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

namespace lorafit {

enum class Pool : uint8_t { kDevice, kHost };
constexpr size_t kPools = 2;
/** Number of categories. src/torch/device.ts assigns the numbers; C++ knows nothing else about them. */
constexpr size_t kCategories = 10;
constexpr uint8_t kWorkspace = kCategories - 1;
/**
 * Bytes of the largest block that is not counted on cpu, nor on meta in place of cpu. Only cpu kernels wrap
 * the numbers that they are given as tensors.
 */
constexpr int64_t kNumberBytes = 8;

/**
 * An allocation refused by a pool's cap, an injected failure or the machine. Bytes; cap is -1 if there is
 * none.
 */
struct OutOfPool : c10::OutOfMemoryError {
  OutOfPool(int64_t requested, int64_t live, int64_t cap, c10::Device device, Pool pool);
  int64_t requested, live, cap;
  c10::Device device;
  Pool pool;
};

using ByCategory = std::array<int64_t, kCategories>;

struct PoolStats {
  int64_t live = 0, peak = 0, cap = -1; // bytes
  int64_t count = 0, blocks = 0;        // allocations since the peak was reset; blocks alive
  ByCategory live_by_category{}, peak_by_category{};
};

/** An allocation (bytes > 0) or a free (bytes < 0) of a block. */
struct AllocationEvent {
  uint64_t id;
  int64_t bytes;
  Pool pool;
  uint8_t category;
};

/** The booking of a live block; id is 0 if the block is not counted. */
struct Block {
  uint64_t id;
  int64_t bytes;
  Pool pool;
  uint8_t category;
};

/**
 * Pool and category that allocations of the calling thread are booked to. Worker threads book to the device
 * pool, as workspace.
 */
struct Booking {
  Pool pool = Pool::kDevice;
  uint8_t category = kWorkspace;
};
Booking& current_booking();

/**
 * Thrown in place of an allocation on a thread that only asks for the allocation's size. It is no
 * std::exception: ATen catches those around oneDNN's batched products, and then stops using oneDNN for the
 * rest of the process.
 */
struct AllocationAsked {
  int64_t bytes;
};

/**
 * While an object of this class lives, this thread's allocations on cpu are listed and not booked. After the
 * first `most`, the next allocation throws AllocationAsked instead, even if it is empty; numbers never throw.
 */
class ListAllocations {
 public:
  explicit ListAllocations(std::vector<int64_t>& sizes, size_t most = SIZE_MAX) : sizes_(sizes), most_(most) {
    current() = this;
  }
  ListAllocations(const ListAllocations&) = delete;
  ListAllocations& operator=(const ListAllocations&) = delete;
  ~ListAllocations() { current() = nullptr; }
  void add(int64_t bytes);
  /** The calling thread's object, or null. */
  static ListAllocations*& current();

 private:
  std::vector<int64_t>& sizes_;
  const size_t most_;
};

/** Returns the pool that a meta tensor's memory is booked to; the device pool for other tensors. */
Pool pool_of(const at::DataPtr& data);

/** Returns the counts of a pool. A card's host pool is the pool of cpu. */
PoolStats stats_of(c10::Device device, Pool pool);
void reset_peak(c10::Device device, Pool pool);
/** Sets a cap. cpu, meta and a card's host pool enforce it; a card's device pool only remembers it. */
void set_cap(c10::Device device, Pool pool, std::optional<int64_t> bytes);
/** Makes the n-th allocation from now (1 is the next) throw OutOfPool; 0 cancels this. Not on a card. */
void fail_at_allocation(c10::Device device, int64_t n);
/** Switches the log of events on or off, and empties it. */
void record_allocations(c10::Device device, bool on);
/** Returns the events logged so far, and empties the log. */
std::vector<AllocationEvent> take_allocations(c10::Device device);

/** Books a new block to the calling thread's booking; throws OutOfPool. */
Block book(c10::Device device, int64_t bytes);
/** Books a block that a card has already allocated, to its device pool. */
Block book_given(c10::Device device, int64_t bytes);
void unbook(c10::Device device, const Block& block) noexcept;

/** Makes these allocators the process's own. */
void install_allocators();

} // namespace lorafit
