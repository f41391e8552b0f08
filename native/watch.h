// The watch over a group of ranks: who is gone, stuck, or waits for something that will not come.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * startWatch(connection, host, limitMs, onLost) -> promise. A thread reports this rank to the store, and
 * reads whether the group is lost. It needs no turn of the event loop, so a long computation is no failure.
 * limitMs: a rank that does nothing for longer is stuck. onLost(words) is called once. words: JSON with rank,
 * host and reason.
 */
napi_value start_watch(const Arguments& arguments);
/** failWatch(connection, reason): the watch tells all ranks that this rank fails, and why. */
napi_value fail_watch(const Arguments& arguments);
/** lostWords(connection, graceMs) -> promise of why the group is lost; "" if it is not in time. */
napi_value lost_words(const Arguments& arguments);
/**
 * leaveWatch(connection, graceMs) -> promise. This rank has done its part. The rank with the store waits for
 * all others, but no longer than graceMs.
 */
napi_value leave_watch(const Arguments& arguments);
/**
 * failNow(connection, reason): like failWatch, and blocks up to a second until the store knows. For the end
 * of a process.
 */
napi_value fail_now(const Arguments& arguments);
/** Ends the watches' threads when this environment ends. */
void stop_watches_with(napi_env env);

} // namespace lorafit
