// Tests the arena's claims. `arena TEST` prints nothing and ends with 0, or reports the failed claim on
// stderr.
#include "../../native/arena.h"

#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

using lorafit::Arena;
using lorafit::ArenaStats;

namespace {

constexpr size_t kMib = size_t{1} << 20;
const size_t kPage = static_cast<size_t>(sysconf(_SC_PAGESIZE));

void expect(bool holds, const char* claim) {
  if (holds) return;
  std::fprintf(stderr, "does not hold: %s\n", claim);
  std::exit(1);
}

char* take(Arena& arena, size_t bytes) {
  auto* block = static_cast<char*>(arena.take(bytes));
  expect(block != nullptr, "there is memory");
  return block;
}

/** Returns how many whole pages of a range are resident. */
size_t resident(const char* start, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(start);
  const uintptr_t first = (address + kPage - 1) / kPage * kPage, last = (address + bytes) / kPage * kPage;
  std::vector<unsigned char> pages((last - first) / kPage);
  expect(mincore(reinterpret_cast<void*>(first), last - first, pages.data()) == 0, "mincore works");
  size_t count = 0;
  for (const unsigned char page : pages) count += page & 1;
  return count;
}

/** A block filled with its own number. */
struct Filled {
  char* data;
  size_t bytes;
  unsigned char number;

  Filled(Arena& arena, size_t bytes, unsigned char number) : data(take(arena, bytes)), bytes(bytes), number(number) {
    std::memset(data, number, bytes);
  }
  void give(Arena& arena) const {
    expect(reinterpret_cast<uintptr_t>(data) % 64 == 0, "blocks are aligned to 64 bytes");
    for (size_t at = 0; at < bytes; ++at)
      expect(static_cast<unsigned char>(data[at]) == number, "nobody else writes into a block");
    arena.give(data, bytes);
  }
};

/** Takes and returns random blocks, each after a random number of rounds. */
void mix(Arena& arena, unsigned seed, int rounds) {
  std::mt19937 random(seed);
  std::vector<Filled> live;
  for (int round = 0; round < rounds; ++round) {
    if (live.size() < 12 && random() % 2 == 0) {
      live.emplace_back(arena, 1 + random() % (size_t{1} << (10 + random() % 12)), static_cast<unsigned char>(random()));
    } else if (!live.empty()) {
      std::swap(live[random() % live.size()], live.back());
      live.back().give(arena);
      live.pop_back();
    }
  }
  for (const Filled& block : live) block.give(arena);
}

void blocks_are_their_owners() {
  Arena arena;
  for (unsigned seed = 0; seed < 20; ++seed) mix(arena, seed, 300);
  expect(arena.stats().live == 0, "all that was given is free");
  char* whole = take(arena, 64 * kMib);
  expect(whole == take(arena, kMib) - 64 * kMib, "free neighbours are one run, from the first address on");
}

void threads_share_it() {
  Arena arena;
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < 4; ++seed) threads.emplace_back([&arena, seed] { mix(arena, 100 + seed, 1000); });
  for (std::thread& thread : threads) thread.join();
  expect(arena.stats().live == 0, "all that was given is free");
}

void rounds_take_nothing_fresh() {
  Arena arena;
  const auto round = [&arena] {
    constexpr std::array<size_t, 6> kSizes{3 * kMib, 11 * kMib, 2 * kMib, 7 * kMib, 5 * kMib, 13 * kMib};
    std::array<char*, kSizes.size()> blocks{};
    for (size_t index = 0; index < blocks.size(); ++index) blocks[index] = take(arena, kSizes[index]);
    for (const size_t index : {1, 4, 0, 5, 2, 3}) arena.give(blocks[index], kSizes[index]);
  };
  round();
  const int64_t fresh = arena.stats().fresh;
  for (int turn = 0; turn < 1000; ++turn) round();
  expect(arena.stats().fresh == fresh, "rounds of the same blocks need no more pages than the first");
}

void neighbours_become_one() {
  Arena arena;
  const Filled a(arena, 8 * kMib, 1), b(arena, 8 * kMib, 2), c(arena, 8 * kMib, 3), end(arena, kMib, 4);
  const int64_t fresh = arena.stats().fresh;
  a.give(arena);
  c.give(arena);
  b.give(arena);
  expect(take(arena, 24 * kMib) == a.data, "three freed neighbours hold one block of their sum");
  expect(arena.stats().fresh == fresh, "which needs no page from the system");
}

void the_shortest_run_that_fits_is_taken() {
  Arena arena;
  const Filled large(arena, 16 * kMib, 1), wall(arena, kMib, 2), small(arena, 4 * kMib, 3), end(arena, kMib, 4);
  large.give(arena);
  small.give(arena);
  expect(take(arena, 4 * kMib) == small.data, "a block goes where it leaves the least");
}

void a_large_free_gives_memory_back() {
  Arena arena;
  const Filled weights(arena, 300 * kMib, 1), rest(arena, kMib, 2);
  expect(resident(weights.data, weights.bytes) == 300 * kMib / kPage, "what was written is resident");
  weights.give(arena);
  const size_t kept = resident(weights.data, weights.bytes) * kPage;
  expect(kept <= 64 * kMib, "no more than the bound stays resident");
  expect(kept >= 63 * kMib, "as much as the bound stays resident");
  expect(arena.stats().cached == static_cast<int64_t>(kept), "what stays is counted");
  arena.trim();
  expect(resident(weights.data, weights.bytes) == 0, "a trim leaves nothing of it");
  expect(resident(rest.data, rest.bytes) == kMib / kPage, "and takes nothing that lives");
  expect(arena.stats().cached == 0, "and nothing is cached any more");
}

void resident_follows_live() {
  Arena arena;
  const Filled a(arena, 24 * kMib, 1), wall(arena, kMib, 2), b(arena, 24 * kMib, 3), end(arena, kMib, 4);
  const size_t most = 50 * kMib;
  a.give(arena);
  b.give(arena);
  const Filled c(arena, 40 * kMib, 5); // fits in none of the free runs
  const ArenaStats stats = arena.stats();
  expect(stats.most_live == static_cast<int64_t>(most), "a run in between costs nothing");
  expect(stats.live + stats.cached <= static_cast<int64_t>(most + most / 256), "what is resident follows what is live");
}

void impossible_blocks_are_refused() {
  Arena arena;
  const auto pages = static_cast<size_t>(sysconf(_SC_PHYS_PAGES));
  expect(arena.take(pages * kPage * 100) == nullptr, "more addresses than are reserved");
  expect(arena.take(kMib) != nullptr, "a refusal leaves the arena as it was");
}

void where_addresses_are_limited_it_takes_none() {
  const rlimit limit{size_t{8} << 30, size_t{8} << 30};
  expect(setrlimit(RLIMIT_AS, &limit) == 0, "a limit can be set");
  Arena arena;
  expect(arena.take(kMib) == nullptr, "blocks are the heap's");
  expect(!arena.owns(&arena), "and none is the arena's");
}

struct Test {
  const char* name;
  void (*run)();
};

constexpr Test kTests[] = {
    {"blocks", blocks_are_their_owners},
    {"threads", threads_share_it},
    {"rounds", rounds_take_nothing_fresh},
    {"neighbours", neighbours_become_one},
    {"shortest", the_shortest_run_that_fits_is_taken},
    {"large", a_large_free_gives_memory_back},
    {"follows", resident_follows_live},
    {"impossible", impossible_blocks_are_refused},
    {"limited", where_addresses_are_limited_it_takes_none},
};

} // namespace

int main(int count, char** names) {
  for (const Test& test : kTests) {
    if (count == 2 && std::string(names[1]) == test.name) return test.run(), 0;
  }
  std::fprintf(stderr, "no such test\n");
  return 2;
}
