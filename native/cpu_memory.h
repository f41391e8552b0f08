// Memory of tensors on the CPU: large blocks lie in an arena (arena.h), small ones are malloc's.
#pragma once

#include "arena.h"

namespace lorafit {

/** At least so many bytes, aligned as c10::gAlignment; nullptr where the machine has none. From any thread. */
void* take_cpu_memory(size_t bytes) noexcept;

/** Gives back what take_cpu_memory(bytes) returned. */
void give_cpu_memory(void* memory, size_t bytes) noexcept;

/** Of large blocks. */
ArenaStats cpu_memory_stats();

/** Gives what the process holds unused, the arena's and malloc's, back to the system. */
void trim_cpu_memory();

} // namespace lorafit
