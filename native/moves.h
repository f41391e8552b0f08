// Counts of what this process does, for the watch over a group of ranks.
#pragma once

#include <atomic>
#include <cstdint>

namespace lorafit {

/** Calls into the engine and turns of the event loop, counted for the watch. */
struct Moves {
  std::atomic<uint64_t> calls = 0;
  std::atomic<uint64_t> turns = 0;
};
Moves& moves();
/** Counts a call; only the JavaScript thread may. */
inline void count_call() {
  Moves& all = moves();
  all.calls.store(all.calls.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

} // namespace lorafit
