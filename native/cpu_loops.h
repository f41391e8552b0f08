// The loops of the CPU kernels over raw memory. cpu_loops.cc is compiled once for each level of vector
// instructions (Makefile), and cpu_kernels.cc uses the best level that the processor has.
#pragma once

#include <stdint.h>

namespace lorafit {

/** An argument of a kernel: a tensor's first element, a whole number, or a float. */
union LoopValue {
  void* pointer;
  int64_t whole;
  float number;
};

/** Does the units begin <= unit < end of a kernel's work; cpu_kernels.cc defines the units. */
using Loop = void (*)(const LoopValue* values, int64_t begin, int64_t end);

struct NamedLoop {
  const char* entry;
  Loop of_bfloat16, of_float16, of_float32;
};

/** Return the loops of a level; an entry without a name ends the table. */
const NamedLoop* loops_baseline();
const NamedLoop* loops_avx2();
const NamedLoop* loops_avx512();

} // namespace lorafit
