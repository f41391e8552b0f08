// A stream of a card beside the computation, for work that allocates nothing.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * sideStream(device, call). Call 0 makes the card's side stream current, after all that is queued on the
 * computing stream now. Call 1 makes the computing stream current again. Call 2 makes the computing stream
 * wait for what was queued beside it.
 */
napi_value side_stream(const Arguments& arguments);

} // namespace lorafit
