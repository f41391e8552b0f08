#include "arena.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <bit>

namespace lorafit {
namespace {

const size_t kPageBytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
constexpr size_t kCommitBytes = size_t{64} << 20; // made writable by one system call
/** Bytes of address space per byte of the machine's memory, so that long-lived blocks may leave gaps. */
constexpr size_t kAddressesPerByte = 8;
/** Cached memory is at most the larger of kLeastCachedBytes and live / kCachedPart. */
constexpr size_t kLeastCachedBytes = size_t{64} << 20;
constexpr size_t kCachedPart = 4;
/** Resident memory may exceed the most that was ever live by 1 / kSlackPart of it. */
constexpr size_t kSlackPart = 256;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/** Return the first page that lies wholly in a range, and the end of such pages. */
size_t inner_first(size_t start) { return (start + kPageBytes - 1) / kPageBytes; }
size_t inner_last(size_t end) { return end / kPageBytes; }

} // namespace

template <typename Visit>
void PageSet::each_word(size_t first, size_t last, Visit visit) {
  for (size_t at = first; at < last;) {
    const size_t bit = at % 64, bits = std::min(64 - bit, last - at);
    visit(at / 64, (~uint64_t{0} >> (64 - bits)) << bit);
    at += bits;
  }
}

void PageSet::insert(size_t first, size_t last) {
  each_word(first, last, [this](size_t word, uint64_t mask) { words_[word] |= mask; });
}

void PageSet::erase(size_t first, size_t last) {
  each_word(first, last, [this](size_t word, uint64_t mask) { words_[word] &= ~mask; });
}

size_t PageSet::count(size_t first, size_t last) const {
  size_t pages = 0;
  each_word(first, last, [&](size_t word, uint64_t mask) { pages += std::popcount(words_[word] & mask); });
  return pages;
}

size_t PageSet::first_of_last(size_t first, size_t last, size_t pages) const {
  size_t at = last;
  for (size_t left = pages; at > first && left > 0; --at) left -= (words_[(at - 1) / 64] >> ((at - 1) % 64)) & 1;
  return at;
}

Arena::Arena() {
  rlimit addresses;
  if (getrlimit(RLIMIT_AS, &addresses) != 0 || addresses.rlim_cur != RLIM_INFINITY) return; // the limited addresses are for others too
  const size_t memory = static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * kPageBytes;
  const size_t bytes = round_up(memory * kAddressesPerByte, kCommitBytes);
  void* range = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (range == MAP_FAILED) return;
  madvise(range, bytes, MADV_HUGEPAGE); // fewer faults, and fewer misses in products (docs/performance.md)
  base_ = static_cast<char*>(range);
  reserved_ = bytes;
}

void* Arena::take(size_t bytes) {
  bytes = round_up(bytes, Arena::kAlignmentBytes);
  const std::lock_guard lock(mutex_);
  const std::optional<Place> place = find(bytes);
  if (!place || !commit(place->start + bytes)) return nullptr;
  occupy(*place, place->start + bytes);
  stats_.live += bytes;
  stats_.most_live = std::max(stats_.most_live, stats_.live);
  if (place->fresh_pages > 0) {
    stats_.fresh += place->fresh_pages * kPageBytes;
    const size_t bound = stats_.most_live + stats_.most_live / kSlackPart;
    shrink_cached(bound - stats_.live);
  }
  return base_ + place->start;
}

void Arena::give(void* block, size_t bytes) {
  bytes = round_up(bytes, Arena::kAlignmentBytes);
  const std::lock_guard lock(mutex_);
  stats_.live -= bytes;
  size_t start = static_cast<size_t>(static_cast<char*>(block) - base_), end = start + bytes;
  size_t cached = 0, first = inner_first(start), last = inner_last(end);
  const auto next = runs_.find(end);
  if (next != runs_.end()) {
    last = inner_first(end);
    end = next->second.end;
    cached += next->second.cached_pages;
    remove_run(next);
  }
  auto previous = runs_.lower_bound(start);
  if (previous != runs_.begin() && (--previous)->second.end == start) {
    first = inner_last(start);
    start = previous->first;
    cached += previous->second.cached_pages;
    remove_run(previous);
  }
  if (last > first) cached += resident_.count(first, last);
  add_run(start, end, cached);
  shrink_cached(std::max(kLeastCachedBytes, static_cast<size_t>(stats_.live) / kCachedPart));
}

void Arena::trim() {
  const std::lock_guard lock(mutex_);
  shrink_cached(0);
}

ArenaStats Arena::stats() {
  const std::lock_guard lock(mutex_);
  ArenaStats stats = stats_;
  stats.cached = static_cast<int64_t>(cached_pages_ * kPageBytes);
  return stats;
}

bool Arena::Place::better_than(const Place& other) const {
  return fresh_pages != other.fresh_pages ? fresh_pages < other.fresh_pages : rest_bytes < other.rest_bytes;
}

std::optional<Arena::Place> Arena::find(size_t bytes) {
  if (bytes > reserved_) return std::nullopt;
  std::optional<Place> best;
  const auto offer = [&](Runs::iterator run, size_t start, size_t rest_bytes) {
    const Place place{run, start, fresh_pages(start, start + bytes), rest_bytes};
    if (!best || place.better_than(*best)) best = place;
  };
  for (auto run = runs_.begin(); run != runs_.end(); ++run) {
    const auto& [start, free] = *run;
    const size_t length = free.end - start;
    if (length < bytes) continue;
    offer(run, start, length - bytes);
    if (length > bytes) offer(run, free.end - bytes, length - bytes);
  }
  // The run before the end may be extended.
  const auto last = runs_.empty() ? runs_.end() : std::prev(runs_.end());
  const bool open = last != runs_.end() && last->second.end == end_ && end_ - last->first < bytes;
  const size_t start = open ? last->first : end_;
  if (start + bytes <= reserved_) offer(open ? last : runs_.end(), start, reserved_);
  return best;
}

/** Makes the range up to `end` writable; false if the system refuses. */
bool Arena::commit(size_t end) {
  if (end <= committed_) return true;
  const size_t to = std::min(round_up(end, kCommitBytes), reserved_);
  if (mprotect(base_ + committed_, to - committed_, PROT_READ | PROT_WRITE) != 0) return false;
  committed_ = to;
  resident_.resize(to / kPageBytes);
  return true;
}

void Arena::occupy(const Place& place, size_t end) {
  if (place.run != runs_.end()) {
    const auto [run_start, run] = *place.run;
    remove_run(place.run);
    const auto cached_in = [this](size_t from, size_t to) {
      return inner_last(to) > inner_first(from) ? resident_.count(inner_first(from), inner_last(to)) : 0;
    };
    if (run_start < place.start) add_run(run_start, place.start, cached_in(run_start, place.start));
    if (end < run.end) add_run(end, run.end, cached_in(end, run.end));
  }
  end_ = std::max(end_, end);
  resident_.insert(inner_last(place.start), inner_first(end));
}

void Arena::add_run(size_t start, size_t end, size_t cached_pages) {
  runs_.emplace(start, Run{end, cached_pages});
  cached_pages_ += cached_pages;
}

void Arena::remove_run(Runs::iterator run) {
  cached_pages_ -= run->second.cached_pages;
  runs_.erase(run);
}

/** Returns the number of pages that a block there would need from the system. */
size_t Arena::fresh_pages(size_t start, size_t end) const {
  const size_t first = inner_last(start), last = inner_first(end), known = std::min(last, committed_ / kPageBytes);
  return last - first - (known > first ? resident_.count(first, known) : 0);
}

/**
 * Returns cached pages to the system until at most to_bytes are left; runs with the most cached pages first.
 */
void Arena::shrink_cached(size_t to_bytes) {
  const size_t to_pages = to_bytes / kPageBytes;
  while (cached_pages_ > to_pages) {
    const auto run = std::max_element(runs_.begin(), runs_.end(), [](const auto& one, const auto& other) {
      return one.second.cached_pages < other.second.cached_pages;
    });
    const size_t pages = std::min(run->second.cached_pages, cached_pages_ - to_pages);
    const size_t last = inner_last(run->second.end);
    const size_t first = resident_.first_of_last(inner_first(run->first), last, pages);
    madvise(base_ + first * kPageBytes, (last - first) * kPageBytes, MADV_DONTNEED);
    resident_.erase(first, last);
    run->second.cached_pages -= pages;
    cached_pages_ -= pages;
    stats_.given_back += pages * kPageBytes;
  }
}

} // namespace lorafit
