#include "cpu_memory.h"

#include <c10/core/alignment.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

namespace lorafit {

namespace {

constexpr size_t kMiB = size_t{1} << 20;
/** Smaller blocks are malloc's. */
constexpr size_t kLargeBytes = kMiB / 16;
constexpr size_t kPageBytes = 4096;
constexpr size_t kHugePageBytes = 2 * kMiB;
constexpr size_t kRegionBytes = 256 * kMiB;
/** Free memory may be resident up to a share of what is in use, or up to so much where that is more... */
constexpr size_t kIdleShare = 4;
constexpr size_t kIdleBytes = 32 * kMiB;
/** ... but makes the process larger than its blocks were at their peak by so much at most. */
constexpr size_t kSlackBytes = 16 * kMiB;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/** Mapped memory from a huge page on, with a page behind it that is nobody's; nullptr where the machine has none. */
char* map_region(size_t bytes) {
  const size_t mapped_bytes = bytes + kHugePageBytes + kPageBytes;
  void* const mapped = mmap(nullptr, mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return nullptr;
  const auto address = reinterpret_cast<size_t>(mapped);
  char* const start = static_cast<char*>(mapped) + (round_up(address, kHugePageBytes) - address);
#ifdef MADV_HUGEPAGE
  madvise(start, bytes, MADV_HUGEPAGE);
#endif
  return start;
}

/** A set of bytes as ranges that don't touch, by address and by size. */
class Ranges {
 public:
  struct Range {
    char* start;
    size_t bytes;
  };

  size_t total() const { return total_; }

  /** Bytes that are not in the set yet; returns the range that they are part of now. */
  Range add(Range range) {
    const auto next = by_address_.lower_bound(range.start);
    if (next != by_address_.end() && next->first == range.start + range.bytes) {
      range.bytes += next->second;
      erase({next->first, next->second});
    }
    const auto after = by_address_.lower_bound(range.start);
    if (after != by_address_.begin()) {
      const auto [start, bytes] = *std::prev(after);
      if (start + bytes == range.start) {
        range = {start, bytes + range.bytes};
        erase({start, bytes});
      }
    }
    insert(range);
    return range;
  }

  /** Takes out what of these bytes is in the set. */
  void cut(Range range) {
    char* const end = range.start + range.bytes;
    auto found = by_address_.upper_bound(range.start);
    if (found != by_address_.begin()) --found;
    while (found != by_address_.end() && found->first < end) {
      const auto [start, bytes] = *found++;
      if (start + bytes <= range.start) continue;
      erase({start, bytes});
      if (start < range.start) insert({start, static_cast<size_t>(range.start - start)});
      if (start + bytes > end) insert({end, static_cast<size_t>(start + bytes - end)});
    }
  }

  /** The smallest range of at least so many bytes. */
  std::optional<Range> smallest(size_t bytes) const {
    const auto found = by_size_.lower_bound({bytes, nullptr});
    if (found == by_size_.end()) return std::nullopt;
    return Range{found->second, found->first};
  }

  /** Of a set that is not empty. */
  Range largest() const {
    const auto [bytes, start] = *by_size_.rbegin();
    return {start, bytes};
  }

 private:
  void insert(Range range) {
    by_address_[range.start] = range.bytes;
    by_size_.insert({range.bytes, range.start});
    total_ += range.bytes;
  }

  void erase(Range range) {
    by_address_.erase(range.start);
    by_size_.erase({range.bytes, range.start});
    total_ -= range.bytes;
  }

  std::map<char*, size_t> by_address_;
  std::set<std::pair<size_t, char*>> by_size_;
  size_t total_ = 0;
};

/** Large blocks, each cut from the smallest free range that holds it. */
class Regions {
 public:
  void* take(size_t bytes) {
    const std::lock_guard lock(mutex_);
    if (!free_.smallest(bytes) && !add_region(bytes)) return nullptr;
    char* const start = free_.smallest(bytes)->start;
    free_.cut({start, bytes});
    idle_.cut({start, bytes});
    live_ += bytes;
    peak_ = std::max(peak_, live_);
    trim();
    return start;
  }

  void give(char* start, size_t bytes) {
    const std::lock_guard lock(mutex_);
    live_ -= bytes;
    idle_.add({start, bytes});
    const Ranges::Range range = free_.add({start, bytes});
    const auto region = regions_.find(range.start);
    if (region != regions_.end() && region->second == range.bytes && bytes > kRegionBytes) remove_region(range);
    trim();
  }

  CpuMemoryStats stats() {
    const std::lock_guard lock(mutex_);
    return {live_, idle_.total(), mapped_};
  }

 private:
  bool add_region(size_t bytes) {
    const size_t size = round_up(std::max(bytes, kRegionBytes), kHugePageBytes);
    char* const start = map_region(size);
    if (!start) return false;
    regions_[start] = size;
    mapped_ += size;
    free_.add({start, size});
    return true;
  }

  void remove_region(Ranges::Range region) {
    free_.cut(region);
    idle_.cut(region);
    regions_.erase(region.start);
    mapped_ -= region.bytes;
    munmap(region.start, region.bytes);
  }

  /** Gives idle memory back to the system, from where the most lies, until what is left is within bounds. */
  void trim() {
    const size_t share = std::max(kIdleBytes, live_ / kIdleShare);
    const size_t bound = std::min(share, peak_ - live_ + kSlackBytes);
    while (idle_.total() > bound) {
      const Ranges::Range range = idle_.largest();
      const size_t bytes = std::min(range.bytes, round_up(idle_.total() - bound, kPageBytes));
      char* const start = range.start + (range.bytes - bytes);
      madvise(start, bytes, MADV_DONTNEED);
      idle_.cut({start, bytes});
    }
  }

  std::mutex mutex_;
  std::map<char*, size_t> regions_;
  Ranges free_; // mapped, and no block's
  Ranges idle_; // what of it is resident
  size_t live_ = 0, peak_ = 0, mapped_ = 0;
};

// Never destroyed: tensors in libtorch's statics may die after ours.
Regions& regions() {
  static auto* regions = new Regions;
  return *regions;
}

} // namespace

void* take_cpu_memory(size_t bytes) noexcept {
  if (bytes >= kLargeBytes) return regions().take(round_up(bytes, kPageBytes));
  void* memory = nullptr;
  return posix_memalign(&memory, c10::gAlignment, bytes) == 0 ? memory : nullptr;
}

void give_cpu_memory(void* memory, size_t bytes) noexcept {
  if (bytes < kLargeBytes) return free(memory);
  regions().give(static_cast<char*>(memory), round_up(bytes, kPageBytes));
}

CpuMemoryStats cpu_memory_stats() { return regions().stats(); }

} // namespace lorafit
