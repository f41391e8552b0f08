#include "cpu_memory.h"

#include <c10/core/alignment.h>
#include <malloc.h>

#include <cstdlib>

namespace lorafit {
namespace {

/**
 * Bytes from which a block goes into the arena. Smaller blocks, and blocks that the arena has no room for,
 * come from malloc.
 */
constexpr size_t kLargeBytes = size_t{64} << 10;
static_assert(Arena::kAlignmentBytes >= c10::gAlignment);

// Never destroyed: tensors in libtorch's statics may die after ours.
Arena& arena() {
  static auto* arena = new Arena;
  return *arena;
}

} // namespace

void* take_cpu_memory(size_t bytes) noexcept {
  void* memory = bytes >= kLargeBytes ? arena().take(bytes) : nullptr;
  if (memory) return memory;
  return posix_memalign(&memory, c10::gAlignment, bytes) == 0 ? memory : nullptr;
}

void give_cpu_memory(void* memory, size_t bytes) noexcept {
  if (bytes >= kLargeBytes && arena().owns(memory)) return arena().give(memory, bytes);
  free(memory);
}

ArenaStats cpu_memory_stats() { return arena().stats(); }

void trim_cpu_memory() {
  arena().trim();
  malloc_trim(0);
}

} // namespace lorafit
