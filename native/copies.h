// Copies that run in the background: weights copied ahead of use, activations moved to the host.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * startCopy(to, from) -> id of a copy between contiguous tensors of one dtype and shape. The copy keeps both
 * alive until waitCopy.
 * - cpu: a thread copies.
 * - CUDA: the copy is queued on a stream of its own, after the work queued so far on the current stream.
 * - meta: nothing is copied.
 */
napi_value start_copy(const Arguments& arguments);
/**
 * waitCopy(id, onHost): returns when later work with `to` sees the data. On CUDA that is work on the current
 * stream, and with onHost also on this thread. Throws the copy's error; the id is invalid afterwards in any
 * case.
 */
napi_value wait_copy(const Arguments& arguments);
/**
 * copyArrival(id) -> promise that settles when the host sees the data, or the copy has failed. The id stays
 * valid: waitCopy then returns at once, or throws the copy's error.
 */
napi_value copy_arrival(const Arguments& arguments);
/**
 * letGoOfSource(id): afterwards, work on the current stream may overwrite `from` or reuse its memory. On cpu
 * it returns when the copy is done, on CUDA at once.
 */
napi_value let_go_of_source(const Arguments& arguments);
/** isCopied(id) -> whether waitCopy would return at once; only waitCopy reports the copy's error. */
napi_value is_copied(const Arguments& arguments);
/** pendingCopies() -> number of copies started and not waited for. */
napi_value pending_copies(const Arguments& arguments);
/**
 * stagingBytes() -> bytes of the pinned buffers through which unpinned memory reaches a card. Once made, the
 * buffers stay.
 */
napi_value staging_bytes(const Arguments& arguments);
/** timeCopies(on): forgets the times so far, and starts or stops timing copies that start from now on. */
napi_value time_copies(const Arguments& arguments);
/**
 * takeCopyTimes() -> [copies, bytes, ms of copying, ms that computing waited for copies]. The device must
 * have finished the copies.
 */
napi_value take_copy_times(const Arguments& arguments);
/** Ends the copying thread when this environment ends; copies that are not done by then stay undone. */
void stop_copies_with(napi_env env);

} // namespace lorafit
