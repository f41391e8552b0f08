#include "allocators.h"

#include <c10/core/Allocator.h>
#include <c10/core/alignment.h>

#include <map>
#include <memory>
#include <mutex>

#include "cpu_memory.h"
#include "meta_kernels.h"

namespace lorafit {

OutOfPool::OutOfPool(int64_t requested, int64_t live, int64_t cap, c10::Device device, Pool pool)
    : c10::OutOfMemoryError(
          {__func__, __FILE__, static_cast<uint32_t>(__LINE__)},
          c10::str("out of memory: ", requested, " bytes requested, ", live, " bytes live")),
      requested(requested),
      live(live),
      cap(cap),
      device(device),
      pool(pool) {}

Booking& current_booking() {
  thread_local Booking booking;
  return booking;
}

ListAllocations*& ListAllocations::current() {
  thread_local ListAllocations* current = nullptr;
  return current;
}

void ListAllocations::add(int64_t bytes) {
  const bool is_number = bytes > 0 && bytes <= kNumberBytes;
  if (sizes_.size() >= most_ && !is_number) throw AllocationAsked{bytes};
  if (bytes > 0) sizes_.push_back(bytes);
}

/** The bookkeeping of one device: charges and refunds blocks, from any thread. */
class Ledger {
 public:
  explicit Ledger(c10::Device device) : device_(device) {}

  /**
   * Books a new block to the calling thread's booking; throws OutOfPool. A number gets the id 0 and no
   * booking.
   */
  Block charge(int64_t bytes) {
    const Booking booking = current_booking();
    if (bytes <= kNumberBytes && !stands_for_card()) return {0, bytes, booking.pool, booking.category};
    const std::lock_guard lock(mutex_);
    PoolStats& stats = stats_[static_cast<size_t>(booking.pool)];
    const bool fails = countdown_ > 0 && --countdown_ == 0;
    if (fails || (stats.cap >= 0 && bytes > stats.cap - stats.live)) {
      throw OutOfPool(bytes, stats.live, stats.cap, device_, booking.pool);
    }
    return enter(bytes, booking);
  }

  /** Books an existing block to the device pool. */
  Block note(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    return enter(bytes, {Pool::kDevice, current_booking().category});
  }

  void refund(const Block& block) noexcept {
    if (block.id == 0) return;
    const std::lock_guard lock(mutex_);
    PoolStats& stats = stats_[static_cast<size_t>(block.pool)];
    stats.live -= block.bytes;
    stats.live_by_category[block.category] -= block.bytes;
    --stats.blocks;
    if (recording_) events_.push_back({block.id, -block.bytes, block.pool, block.category});
  }

  template <typename Body>
  auto with_pool(Pool pool, Body body) {
    const std::lock_guard lock(mutex_);
    return body(stats_[static_cast<size_t>(pool)]);
  }

  void fail_at(int64_t n) {
    const std::lock_guard lock(mutex_);
    countdown_ = n;
  }

  void record(bool on) {
    const std::lock_guard lock(mutex_);
    recording_ = on;
    events_.clear();
  }

  std::vector<AllocationEvent> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(events_, {});
  }

 private:
  /** Returns whether meta stands for a card: a card counts every block. */
  bool stands_for_card() const { return device_.is_meta() && plan_target().cuda; }

  Block enter(int64_t bytes, Booking booking) {
    PoolStats& stats = stats_[static_cast<size_t>(booking.pool)];
    stats.live += bytes;
    stats.live_by_category[booking.category] += bytes;
    ++stats.count;
    ++stats.blocks;
    if (stats.live > stats.peak) {
      stats.peak = stats.live;
      stats.peak_by_category = stats.live_by_category;
    }
    const Block block{++last_id_, bytes, booking.pool, booking.category};
    if (recording_) events_.push_back({block.id, bytes, block.pool, block.category});
    return block;
  }

  const c10::Device device_;
  std::mutex mutex_;
  std::array<PoolStats, kPools> stats_;
  uint64_t last_id_ = 0;
  int64_t countdown_ = 0;
  bool recording_ = false;
  std::vector<AllocationEvent> events_;
};

// Ledgers are never destroyed: tensors in libtorch's statics may die after ours.
static Ledger& cpu_ledger() {
  static auto* ledger = new Ledger(c10::kCPU);
  return *ledger;
}

static Ledger& meta_ledger() {
  static auto* ledger = new Ledger(c10::kMeta);
  return *ledger;
}

static Ledger& card_ledger(c10::Device device) {
  static std::mutex mutex;
  static auto* ledgers = new std::map<c10::DeviceIndex, std::unique_ptr<Ledger>>;
  const std::lock_guard lock(mutex);
  std::unique_ptr<Ledger>& ledger = (*ledgers)[device.index()];
  if (!ledger) ledger = std::make_unique<Ledger>(device);
  return *ledger;
}

static Ledger& ledger_of(c10::Device device, Pool pool = Pool::kDevice) {
  if (device.is_meta()) return meta_ledger();
  TORCH_CHECK(device.is_cpu() || device.is_cuda(), "no allocations of ", device, " are tracked");
  if (device.is_cpu() || pool == Pool::kHost) return cpu_ledger();
  TORCH_CHECK(device.has_index(), "which card is asked for?");
  return card_ledger(device);
}

PoolStats stats_of(c10::Device device, Pool pool) {
  return ledger_of(device, pool).with_pool(pool, [](PoolStats& stats) { return stats; });
}

void reset_peak(c10::Device device, Pool pool) {
  ledger_of(device, pool).with_pool(pool, [](PoolStats& stats) {
    stats.peak = stats.live;
    stats.peak_by_category = stats.live_by_category;
    stats.count = 0;
  });
}

void set_cap(c10::Device device, Pool pool, std::optional<int64_t> bytes) {
  ledger_of(device, pool).with_pool(pool, [bytes](PoolStats& stats) { stats.cap = bytes.value_or(-1); });
}

void fail_at_allocation(c10::Device device, int64_t n) {
  TORCH_CHECK(!device.is_cuda(), "an allocation on a card can't be made to fail");
  ledger_of(device).fail_at(n);
}

void record_allocations(c10::Device device, bool on) { ledger_of(device).record(on); }

std::vector<AllocationEvent> take_allocations(c10::Device device) { return ledger_of(device).take(); }

Block book(c10::Device device, int64_t bytes) { return ledger_of(device).charge(bytes); }

Block book_given(c10::Device device, int64_t bytes) { return ledger_of(device).note(bytes); }

void unbook(c10::Device device, const Block& block) noexcept { ledger_of(device).refund(block); }

/** Heap blocks with their booking in a header. The header keeps the alignment that kernels rely on. */
class CpuAllocator final : public c10::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    auto* list = ListAllocations::current();
    if (list) list->add(static_cast<int64_t>(bytes));
    if (bytes == 0) return {nullptr, nullptr, &release, c10::Device(c10::kCPU)};
    TORCH_CHECK(bytes < (size_t{1} << 62), "an allocation of ", bytes, " bytes is beyond any machine");
    const Block block =
        list ? Block{.id = 0, .bytes = static_cast<int64_t>(bytes), .pool = Pool::kDevice, .category = 0}
             : cpu_ledger().charge(static_cast<int64_t>(bytes));
    auto* header = static_cast<Block*>(reserve(block));
    *header = block;
    void* data = reinterpret_cast<char*>(header) + kHeaderBytes;
    return {data, data, &release, c10::Device(c10::kCPU)};
  }

  // oneDNN and others allocate raw: they keep only the pointer, and free it with this function.
  c10::DeleterFnPtr raw_deleter() const override { return &release; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  static constexpr size_t kHeaderBytes = c10::gAlignment;
  static_assert(sizeof(Block) <= kHeaderBytes);

  static size_t bytes_with_header(const Block& block) {
    return static_cast<size_t>(block.bytes) + kHeaderBytes;
  }

  /**
   * Allocates memory for a booked block and its header. If the machine has none, refunds the block and throws
   * OutOfPool.
   */
  static void* reserve(const Block& block) {
    void* const memory = take_cpu_memory(bytes_with_header(block));
    if (memory) return memory;
    cpu_ledger().refund(block);
    throw OutOfPool(block.bytes, stats_of(c10::kCPU, block.pool).live, -1, c10::kCPU, block.pool);
  }

  static void release(void* data) {
    if (!data) return;
    auto* header = reinterpret_cast<Block*>(static_cast<char*>(data) - kHeaderBytes);
    const Block block = *header;
    cpu_ledger().refund(block);
    give_cpu_memory(header, bytes_with_header(block));
  }
};

/** Blocks without data: only their booking is real. */
class MetaAllocator final : public c10::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, c10::Device(c10::kMeta)};
    return {
        nullptr, new Block(meta_ledger().charge(static_cast<int64_t>(bytes))), &release,
        c10::Device(c10::kMeta)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return nullptr; }

  void copy_data(void*, const void*, std::size_t) const override {}

  static void release(void* context) {
    auto* block = static_cast<Block*>(context);
    meta_ledger().refund(*block);
    delete block;
  }
};

Pool pool_of(const at::DataPtr& data) {
  const bool booked = data.get_deleter() == &MetaAllocator::release;
  return booked ? static_cast<const Block*>(data.get_context())->pool : Pool::kDevice;
}

void install_allocators() {
  constexpr uint8_t kPriority = 1; // above the default ones
  static auto* cpu = new CpuAllocator;
  static auto* meta = new MetaAllocator;
  c10::SetAllocator(c10::kCPU, cpu, kPriority);
  c10::SetAllocator(c10::kMeta, meta, kPriority);
}

} // namespace lorafit
