// Counts calls by operator and shapes; a planned step's time is estimated from these counts.
#pragma once

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include "values.h"

namespace lorafit {

/** Records a call's inputs, and in finish() its results, then counts the call. For the calling thread. */
class TracedCall {
 public:
  static bool tracing();
  TracedCall(const Arguments& arguments, const c10::FunctionSchema& schema, const std::vector<c10::IValue>& inputs);
  void finish(const std::vector<c10::IValue>& outputs);

 private:
  std::string key_;
  const void* first_storage_ = nullptr;
};

/** Counts a copy between pools that runs in the background, as operator -1. */
void count_copy(const at::Tensor& to, const at::Tensor& from);

/**
 * countExposed(): counts the copies to the device started since the last launch once more, as operator -2.
 * The next work waits for them, and nothing computes meanwhile.
 */
napi_value count_exposed(const Arguments& arguments);
/** countKernel(id, reads, writes): counts a launch of our own kernel, as operator `id`, below -2. */
napi_value count_kernel(const Arguments& arguments);
/** traceCalls(on): forgets the counts so far, and starts or stops counting. */
napi_value trace_calls(const Arguments& arguments);
/**
 * takeCalls() -> bytes of a Float64Array with the counts so far. For each operator and shapes:
 * - the number of values that follow,
 * - times, operator, flags (1: is_causal; 2: the first result shares the first input's memory), inputs,
 * - for each tensor, inputs first: whether it is a result, dtype, pool, dims and sizes.
 */
napi_value take_calls(const Arguments& arguments);
/** setRepeats(n) -> n before: how often each call counts. */
napi_value set_repeats(const Arguments& arguments);

} // namespace lorafit
