// Collectives between processes, by c10d: Gloo for the CPU, NCCL for cards. All work in place.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * openGroup(connection, interface, threads, timeoutMs, checks) -> promise of a group over Gloo.
 * interface: address or name of the network interface. checks: compare before each collective (debug mode).
 */
napi_value open_group(const Arguments& arguments);
/**
 * openCards(group, connection, device, library) -> promise. Adds NCCL to a group, for tensors on this card.
 * library: file of libnccl, or "" for the one that libtorch brings.
 */
napi_value open_cards(const Arguments& arguments);
/** closeGroup(group): ends threads and connections. */
napi_value close_group(const Arguments& arguments);
/**
 * startCollective(group, kind, to, from | undefined, root) -> id of a collective that is under way, which
 * keeps its tensors alive until waitCollective. kind: number of Kind.
 */
napi_value start_collective(const Arguments& arguments);
/**
 * waitCollective(id): returns when later work with the result sees it. Blocks on cpu. Throws why it failed;
 * the id is invalid afterwards in any case.
 */
napi_value wait_collective(const Arguments& arguments);
/** isCollectiveDone(id) -> whether waitCollective would wait for no other rank, also where it would throw. */
napi_value is_collective_done(const Arguments& arguments);
/** collectiveArrival(id) -> promise that settles when the host sees the result, or rejects with the error. */
napi_value collective_arrival(const Arguments& arguments);
/** pendingCollectives() -> number of collectives started and not waited for. */
napi_value pending_collectives(const Arguments& arguments);

} // namespace lorafit
