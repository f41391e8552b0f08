// Connections to the store where ranks find each other.
#pragma once

#include "values.h"

namespace lorafit {

/**
 * openStore(host, port, serves, listenFd, timeoutMs, rank, count, prefix) -> promise of a connection. With
 * `serves` the store is in this process: it listens on all addresses, or, for host 127.0.0.1, on this one
 * only. listenFd: a bound socket for it, or -1. prefix: before all keys, so that others may use the store.
 */
napi_value open_store(const Arguments& arguments);
/** connectStore(connection) -> promise of a further connection to the same store. */
napi_value connect_store(const Arguments& arguments);
/** storePort(connection) -> port of the store. */
napi_value store_port(const Arguments& arguments);
/** storeSet(connection, key, bytes) -> promise. */
napi_value store_set(const Arguments& arguments);
/**
 * storeGet(connection, keys, what, patienceMs) -> promise of the values of all keys, once all are set. Other
 * ranks see `what` as the thing that this rank waits for.
 */
napi_value store_get(const Arguments& arguments);
/** storeHas(connection, key) -> promise of whether the key is set. */
napi_value store_has(const Arguments& arguments);
/** storeDelete(connection, key) -> promise. */
napi_value store_delete(const Arguments& arguments);
/** closeStore(connection): a store in this process ends with its first connection. */
napi_value close_store(const Arguments& arguments);
/** countTurn(): the event loop turns. */
napi_value count_turn(const Arguments& arguments);

} // namespace lorafit
