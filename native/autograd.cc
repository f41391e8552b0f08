#include "autograd.h"

#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include "handles.h"

namespace lorafit {

napi_value gradients(const Arguments& arguments) {
  napi_env env = arguments.env;
  // In separate statements: within one call the compiler would choose the order, and so the error.
  const auto outputs = to_tensors(env, arguments[0], "outputs");
  const auto inputs = to_tensors(env, arguments[1], "inputs");
  const auto grad_outputs = to_tensors(env, arguments[2], "gradOutputs");
  const bool retain_graph = to_bool(env, arguments[3], "retainGraph");
  const auto found = torch::autograd::grad(
      outputs, inputs, grad_outputs, retain_graph, /*create_graph=*/false, /*allow_unused=*/false);
  return from_tensors(env, found);
}

napi_value set_grad_mode(const Arguments& arguments) {
  const bool before = c10::GradMode::is_enabled();
  c10::GradMode::set_enabled(to_bool(arguments.env, arguments[0], "on"));
  return from_bool(arguments.env, before);
}

napi_value set_requires_grad(const Arguments& arguments) {
  at::Tensor& tensor = to_tensor(arguments.env, arguments[0], "self");
  tensor.set_requires_grad(to_bool(arguments.env, arguments[1], "on"));
  return undefined_value(arguments.env);
}

napi_value requires_grad(const Arguments& arguments) {
  return from_bool(arguments.env, to_tensor(arguments.env, arguments[0], "self").requires_grad());
}

} // namespace lorafit
