// The loops of the CPU kernels over raw memory. cpu_loops.cc is compiled once for each level of vector instructions (Makefile), and
// cpu_kernels.cc takes the best that the processor has.
#pragma once

#include <stdint.h>

namespace lorafit {

/** An argument of a kernel: a tensor's first element, a whole number, or a float. */
union LoopValue {
  void* pointer;
  int64_t whole;
  float number;
};

/** Does the units begin <= unit < end of a kernel's work; what a unit is, cpu_kernels.cc says. */
using Loop = void (*)(const LoopValue* values, int64_t begin, int64_t end);

struct NamedLoop {
  const char* entry;
  Loop of_bfloat16, of_float16, of_float32;
};

/** The loops of a level, ended by one without a name. */
const NamedLoop* loops_baseline();
const NamedLoop* loops_avx2();
const NamedLoop* loops_avx512();
/** Beside the best level's, where the processor multiplies pairs of bfloat16. */
const NamedLoop* loops_of_pairs();

} // namespace lorafit
