// Memory for large tensors on the CPU: one range of addresses whose free parts are reused, and given back to the system beyond a bound.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

namespace lorafit {

/** A set of pages, by their numbers (arena.cc says how large one is). Ranges are [first, last). */
class PageSet {
 public:
  void resize(size_t pages) { words_.resize((pages + 63) / 64); }
  void insert(size_t first, size_t last);
  void erase(size_t first, size_t last);
  size_t count(size_t first, size_t last) const;
  /** The last `pages` members of a range, or all: the least range that has them. */
  size_t first_of_last(size_t first, size_t last, size_t pages) const;

 private:
  template <typename Visit>
  static void each_word(size_t first, size_t last, Visit visit);
  std::vector<uint64_t> words_;
};

/** Bytes. Cached memory is free, but still the process's: taking it again costs no page fault. */
struct ArenaStats {
  int64_t live = 0, most_live = 0, cached = 0;
  int64_t fresh = 0, given_back = 0; // since the process began: had from the system, given back to it
};

/**
 * Blocks lie in one reserved range next to each other; free neighbours are one run. A block goes where it needs the fewest pages
 * from the system, and among such places into the shortest run. What is resident follows what is live: when a block needs pages
 * from the system, others are given back as far as the sum would pass the most that was ever live, and what is freed stays only
 * within a bound. Long-lived blocks between short-lived ones therefore cost addresses, never memory. For all threads.
 */
class Arena {
 public:
  static constexpr size_t kAlignmentBytes = 64;

  Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /** Aligned; null where the range or the machine has no such memory. */
  void* take(size_t bytes);
  /** `bytes` as they were asked for. */
  void give(void* block, size_t bytes);
  bool owns(const void* block) const { return block >= base_ && block < base_ + reserved_; }
  /** Gives all cached memory back to the system. */
  void trim();
  ArenaStats stats();

 private:
  /** A free range up to the next block, by its start; its cached pages are those that no block shares. */
  struct Run {
    size_t end, cached_pages;
  };
  using Runs = std::map<size_t, Run>;
  struct Place {
    Runs::iterator run; // runs_.end(): behind the last block
    size_t start, fresh_pages, rest_bytes;
    bool better_than(const Place& other) const;
  };

  std::optional<Place> find(size_t bytes);
  bool commit(size_t end);
  void occupy(const Place& place, size_t end);
  void add_run(size_t start, size_t end, size_t cached_pages);
  void remove_run(Runs::iterator run);
  size_t fresh_pages(size_t start, size_t end) const;
  void shrink_cached(size_t to_bytes);

  char* base_ = nullptr;
  size_t reserved_ = 0;  // bytes, as those below, from base_
  size_t committed_ = 0; // may be written
  size_t end_ = 0;       // behind the last block
  std::mutex mutex_;
  Runs runs_;
  PageSet resident_;
  size_t cached_pages_ = 0;
  ArenaStats stats_;
};

} // namespace lorafit
