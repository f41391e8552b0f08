// Copies that run beside the computing: weights fetched ahead, activations moved to the host.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * startCopy(to, from) -> id of a copy between contiguous tensors of one dtype and shape, which it keeps alive until it is
 * waited for. On cpu a thread copies; on CUDA the copy is queued on a stream of its own, after what is queued on the
 * current one so far; on meta there is nothing to copy.
 */
napi_value start_copy(const Arguments& arguments);
/**
 * waitCopy(id, onHost) returns when whoever computes with `to` from now on sees the data: on CUDA that is the current
 * stream, and with onHost this thread too. Throws what went wrong; the id is gone in any case.
 */
napi_value wait_copy(const Arguments& arguments);
/**
 * copyArrival(id) -> promise that settles when the host sees the data, or nobody will; the id stays, and waitCopy, which throws what went
 * wrong, then waits for nothing.
 */
napi_value copy_arrival(const Arguments& arguments);
/**
 * letGoOfSource(id): from here on, work on the current stream may write over `from`, or its memory be handed on. On cpu it returns when
 * the copy is done, on CUDA at once.
 */
napi_value let_go_of_source(const Arguments& arguments);
/** isCopied(id) -> whether nobody would wait for it any more; what went wrong with it is told by waiting. */
napi_value is_copied(const Arguments& arguments);
/** pendingCopies() -> how many were started and not waited for. */
napi_value pending_copies(const Arguments& arguments);
/** stagingBytes() -> bytes of the pinned buffers that memory which is not pinned reaches a card through; they stay once they are there. */
napi_value staging_bytes(const Arguments& arguments);
/** timeCopies(on) forgets what was timed, and times copies that start from here on or no longer. */
napi_value time_copies(const Arguments& arguments);
/** takeCopyTimes() -> [copies, bytes, ms that they took, ms that the computing waited for them]; the device must be done with them. */
napi_value take_copy_times(const Arguments& arguments);
/** Ends the copying thread when this environment ends; what it has not copied by then stays so. */
void stop_copies_with(napi_env env);

} // namespace lorafit
