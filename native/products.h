// Products of bfloat16 matrices on the CPU, our own where the processor multiplies pairs of bfloat16 and has no matrix unit.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

namespace lorafit {

/** Whether into = left right is multiplied here: by dtypes, strides and processor; on meta as on the cpu that is planned for. */
bool multiplies(const at::Tensor& into, const at::Tensor& left, const at::Tensor& right);

/** A stand-in for an operator: leaves its result on the stack, in place of its arguments; or does nothing, and says false. */
using StandIn = bool (*)(std::vector<c10::IValue>& stack);
/** The stand-in for mm or addmm_; null for other operators. */
StandIn stand_in_for(const std::string& name);

} // namespace lorafit
