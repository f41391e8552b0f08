// Memory for large tensors on the CPU: one range of addresses. Free parts are reused, and returned to the
// system beyond a bound.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

namespace lorafit {

/** A set of pages, by page number (size: kPageBytes in arena.cc). Ranges are [first, last). */
class PageSet {
 public:
  void resize(size_t pages) { words_.resize((pages + 63) / 64); }
  void insert(size_t first, size_t last);
  void erase(size_t first, size_t last);
  size_t count(size_t first, size_t last) const;
  /**
   * Returns the start of the shortest range up to `last` with `pages` members; `first` if there are fewer.
   */
  size_t first_of_last(size_t first, size_t last, size_t pages) const;

 private:
  template <typename Visit>
  static void each_word(size_t first, size_t last, Visit visit);
  std::vector<uint64_t> words_;
};

/** Bytes. Cached memory is free but still belongs to the process: reusing it causes no page fault. */
struct ArenaStats {
  int64_t live = 0, most_live = 0, cached = 0;
  int64_t fresh = 0, given_back = 0; // since the process began: taken from the system, returned to it
};

/**
 * Blocks lie next to each other in one reserved range; adjacent free parts form one run. A block goes where
 * it needs the fewest new pages from the system; among equal places, into the shortest run.
 *
 * Resident memory follows live memory. When a block needs new pages, the arena returns cached pages to the
 * system. It does so until live and cached memory together exceed the most that was ever live by at most
 * kSlackPart (arena.cc). Freed memory stays cached only within a bound. So long-lived blocks between
 * short-lived blocks cost addresses, never memory. Safe for all threads.
 */
class Arena {
 public:
  static constexpr size_t kAlignmentBytes = 64;

  Arena();
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  /** Returns aligned memory; null if the range or the machine has no room. */
  void* take(size_t bytes);
  /** Frees a block; `bytes` is the size that was requested. */
  void give(void* block, size_t bytes);
  bool owns(const void* block) const { return block >= base_ && block < base_ + reserved_; }
  /** Gives all cached memory back to the system. */
  void trim();
  ArenaStats stats();

 private:
  /**
   * A free range up to the next block, keyed by its start. cached_pages: resident pages that no block shares.
   */
  struct Run {
    size_t end, cached_pages;
  };
  using Runs = std::map<size_t, Run>;
  struct Place {
    Runs::iterator run; // runs_.end(): after the last block
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
  size_t reserved_ = 0;  // bytes from base_; so are the two below
  size_t committed_ = 0; // end of the writable part
  size_t end_ = 0;       // end of the last block
  std::mutex mutex_;
  Runs runs_;
  PageSet resident_;
  size_t cached_pages_ = 0;
  ArenaStats stats_;
};

} // namespace lorafit
