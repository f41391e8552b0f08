// Calls of operators, counted by operator and shapes: what the time of a planned step follows from.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include "values.h"

namespace lorafit {

/** The tensors of a call before it, counted with those that it returned. For the thread that calls. */
class TracedCall {
 public:
  static bool tracing();
  TracedCall(const Arguments& arguments, const c10::FunctionSchema& schema, const std::vector<c10::IValue>& inputs);
  void finish(const std::vector<c10::IValue>& outputs);

 private:
  std::string key_;
  const void* first_storage_ = nullptr;
};

/** Counts a copy between pools that runs beside the computing, as the operator -1. */
void count_copy(const at::Tensor& to, const at::Tensor& from);

/**
 * countExposed() counts the copies to the device that were started since the last launch once more, as the operator -2: what comes
 * next waits for them, and nothing computes meanwhile.
 */
napi_value count_exposed(const Arguments& arguments);
/** countKernel(id, reads, writes) counts a launch of a kernel of our own, as the operator `id`, which is below -2. */
napi_value count_kernel(const Arguments& arguments);
/** traceCalls(on) forgets what was counted, and counts from here on or no longer. */
napi_value trace_calls(const Arguments& arguments);
/**
 * takeCalls() -> Float64Array's bytes of what was counted since: for each operator and shapes the number of values that follow,
 * times, operator, flags (1: is_causal; 2: the first result shares the first input's memory), inputs, and for each tensor, inputs
 * first, whether it is a result, dtype, pool, dims and sizes.
 */
napi_value take_calls(const Arguments& arguments);
/** setRepeats(n) -> n before: how often each call counts. */
napi_value set_repeats(const Arguments& arguments);

} // namespace lorafit
