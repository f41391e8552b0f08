// Gradients, grad mode and random generators.
#pragma once

#include "values.h"

namespace lorafit {

/** grad(outputs, inputs, gradOutputs, retainGraph) -> handles of the inputs' gradients. */
napi_value gradients(const Arguments& arguments);
/** gradMode(on) -> the mode before. */
napi_value set_grad_mode(const Arguments& arguments);
/** setRequiresGrad(tensor, on), requiresGrad(tensor). */
napi_value set_requires_grad(const Arguments& arguments);
napi_value requires_grad(const Arguments& arguments);

/** createGenerator(seed, device) -> handle. */
napi_value create_generator(const Arguments& arguments);
/** generatorState(generator) -> Uint8Array; setGeneratorState(generator, bytes). */
napi_value generator_state(const Arguments& arguments);
napi_value set_generator_state(const Arguments& arguments);
napi_value dispose_generator(const Arguments& arguments);
/** manualSeed(seed): seeds the default generators of all devices. */
napi_value manual_seed(const Arguments& arguments);

} // namespace lorafit
