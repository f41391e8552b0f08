// The tracking allocators, seen from JavaScript. Devices are their numbers, pools 0 (device) and 1 (host).
#pragma once

#include "values.h"

namespace lorafit {

/** setPool(pool), setCategory(category) -> the value before. Allocations of this thread are booked there. */
napi_value set_pool(const Arguments& arguments);
napi_value set_category(const Arguments& arguments);
/**
 * memoryStats(device, pool) -> [live, peak, cap, count, blocks, ...live by category, ...peak by category].
 */
napi_value memory_stats(const Arguments& arguments);
/** cpuMemory() -> bytes [live, most live, cached, fresh, given back] of the arena (arena.h). */
napi_value cpu_memory(const Arguments& arguments);
/** resetPeak(device, pool). */
napi_value reset_memory_peak(const Arguments& arguments);
/** setCap(device, pool, bytes | undefined). */
napi_value set_memory_cap(const Arguments& arguments);
/** failAtAllocation(device, n). */
napi_value inject_failure(const Arguments& arguments);
/** recordAllocations(device, on). */
napi_value record_memory(const Arguments& arguments);
/**
 * takeAllocations(device) -> [ids, bytes, pools, categories] as bytes of Float64, Float64, Uint8 and Uint8
 * arrays.
 */
napi_value take_memory_record(const Arguments& arguments);

} // namespace lorafit
