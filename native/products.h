// Products of bfloat16 matrices on the CPU: our own, if the processor multiplies pairs of bfloat16 or has a
// matrix unit.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

namespace lorafit {

/**
 * A replacement for an operator: replaces the arguments on the stack by its result, or does nothing and
 * returns false.
 */
using StandIn = bool (*)(std::vector<c10::IValue>& stack);
/** Returns the replacement for mm or addmm_; null for other operators. */
StandIn stand_in_for(const std::string& name);

/**
 * While it lives, tells this thread whether the called operator has a replacement. Products that another
 * operator calls inside libtorch are libtorch's.
 */
class Called {
public:
  explicit Called(StandIn stand_in);
  ~Called();
  Called(const Called&) = delete;
  Called& operator=(const Called&) = delete;
};

/**
 * Returns whether our own kernel computes into = left right in the called operator: depends on dtypes,
 * strides and processor. On meta, it answers for the planned cpu.
 */
bool multiplies(const at::Tensor& into, const at::Tensor& left, const at::Tensor& right);

} // namespace lorafit
