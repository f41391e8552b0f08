// The table of the CPU kernels' loops. Table and loops are compiled once for each level of vector
// instructions (Makefile).
#include "cpu_loops.h"

#include "loops_of_attention.h"
#include "loops_of_codes.h"
#include "loops_of_dropout.h"
#include "loops_of_optimizer.h"
#include "loops_of_rows.h"

#ifndef LOOPS
#define LOOPS loops_baseline
#endif

namespace lorafit {
namespace {

#define NAMED(loop) \
  { #loop, loop<BFloat16>, loop<Float16>, loop<float> }

constexpr NamedLoop kLoops[] = {
    NAMED(swiglu),
    NAMED(swiglu_backward),
    NAMED(rms_norm),
    NAMED(add_rms_norm_gradient),
    NAMED(softmax_gradient),
    NAMED(adamw),
    NAMED(dropped),
    NAMED(add_dropped),
    NAMED(causal_softmax),
    NAMED(softmax_backward),
    NAMED(add_wide),
    NAMED(gather_rows),
    NAMED(rope_unpack),
    NAMED(rope_pack),
    NAMED(dequantize_nf4),
    NAMED(dequantize_int8),
    {nullptr, nullptr, nullptr, nullptr},
};

} // namespace

const NamedLoop* LOOPS() { return kLoops; }

} // namespace lorafit
