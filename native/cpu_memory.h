// Memory of tensors on the CPU. Large blocks are cut from mapped regions and reused without a page fault; what is free goes back to
// the system before it makes the process larger than its tensors were. Small ones are malloc's.
#pragma once

#include <cstddef>

namespace lorafit {

/** At least so many bytes, aligned as c10::gAlignment; nullptr where the machine has none. From any thread. */
void* take_cpu_memory(size_t bytes) noexcept;

/** Gives back what take_cpu_memory(bytes) returned. */
void give_cpu_memory(void* memory, size_t bytes) noexcept;

/** Of large blocks, bytes: in use; free, and resident at most; mapped. */
struct CpuMemoryStats {
  size_t live, idle, mapped;
};
CpuMemoryStats cpu_memory_stats();

} // namespace lorafit
