// Tracking allocators of the cpu and meta devices: what is alive, in which pool, for what, and how much may be. Cards are tracked
// as well, by what libtorch's own allocator tells of them (card_memory.h).
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
/** Categories are numbered by src/torch/device.ts; these are all that C++ knows of them. */
constexpr size_t kCategories = 10;
constexpr uint8_t kWorkspace = kCategories - 1;
/** Blocks up to this size stay out of the books of cpu, and of meta where it stands for cpu: cpu kernels wrap
 * the numbers they are given as tensors, no others do. */
constexpr int64_t kNumberBytes = 8;

/** An allocation that a pool's cap, an injected failure or the machine refused. Bytes; cap is -1 where there
 * is none. */
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

/** One allocation (bytes above zero) or free (bytes below zero) of a block. */
struct AllocationEvent {
  uint64_t id;
  int64_t bytes;
  Pool pool;
  uint8_t category;
};

/** Where a block that lives is booked; the id of one that isn't is 0. */
struct Block {
  uint64_t id;
  int64_t bytes;
  Pool pool;
  uint8_t category;
};

/** Pool and category that allocations of the calling thread are booked to; worker threads book workspace on
 * the device. */
struct Booking {
  Pool pool = Pool::kDevice;
  uint8_t category = kWorkspace;
};
Booking& current_booking();

/**
 * Thrown in place of an allocation on a thread that asks for its size alone. It is no std::exception: ATen catches those around oneDNN's
 * batched products, and then does without oneDNN for the rest of the process.
 */
struct AllocationAsked {
  int64_t bytes;
};

/**
 * While one lives, allocations on cpu of this thread are listed, and booked nowhere. After the first `most`, the next one throws
 * AllocationAsked instead, even an empty one; numbers never do.
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
  /** The calling thread's, or null. */
  static ListAllocations*& current();

 private:
  std::vector<int64_t>& sizes_;
  const size_t most_;
};

/** Where the memory of meta tensors is booked; of others, the device. */
Pool pool_of(const at::DataPtr& data);

/** A card's host pool is that of cpu. */
PoolStats stats_of(c10::Device device, Pool pool);
void reset_peak(c10::Device device, Pool pool);
/** Holds for cpu and meta, and for the host pool of a card; of its device pool it is remembered only. */
void set_cap(c10::Device device, Pool pool, std::optional<int64_t> bytes);
/** The n-th allocation from now (1 is the next) throws OutOfPool; 0 calls it off. Not on a card. */
void fail_at_allocation(c10::Device device, int64_t n);
/** Switches the log of events on (and empties it) or off. */
void record_allocations(c10::Device device, bool on);
/** Hands over the events logged so far. */
std::vector<AllocationEvent> take_allocations(c10::Device device);

/** Books a new block where the calling thread's booking says; throws OutOfPool. */
Block book(c10::Device device, int64_t bytes);
/** Books what a card has given out already, into its device pool. */
Block book_given(c10::Device device, int64_t bytes);
void unbook(c10::Device device, const Block& block) noexcept;

/** Makes these allocators those of the process. */
void install_allocators();

} // namespace lorafit
