// Memory of tensors on the CPU: large blocks come from an arena (arena.h), small blocks from malloc.
#pragma once

#include "arena.h"

namespace lorafit {

/**
 * Returns at least so many bytes, aligned to c10::gAlignment; nullptr if the machine has none. From any
 * thread.
 */
void* take_cpu_memory(size_t bytes) noexcept;

/** Frees what take_cpu_memory(bytes) returned. */
void give_cpu_memory(void* memory, size_t bytes) noexcept;

/** Returns the counts of large blocks. */
ArenaStats cpu_memory_stats();

/** Returns unused memory of the arena and of malloc to the system. */
void trim_cpu_memory();

} // namespace lorafit
