// Any ATen operator, called by its schema.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * resolve(name, overload, nullable: string[]) -> id of an operator; `nullable` names tensors that may be
 * null.
 */
napi_value resolve_operator(const Arguments& arguments);
/** schema(id) -> the operator's schema as text. */
napi_value operator_schema(const Arguments& arguments);
/**
 * call(id, ...arguments in schema order, undefined for a default) -> handle, null, number, boolean or an
 * array of these; undefined for an in-place operator, since the caller already holds its result.
 */
napi_value call_operator(const Arguments& arguments);

} // namespace lorafit
