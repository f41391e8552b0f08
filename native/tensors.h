// Tensors seen from JavaScript: made from bytes and files, read, freed.
#pragma once

#include "values.h"

namespace lorafit {

/** fromBytes(typed array, dtype, shape) -> handle of a cpu tensor with a copy. */
napi_value tensor_from_bytes(const Arguments& arguments);
/** toBytes(tensor) -> Uint8Array with a copy of a contiguous cpu tensor's data. */
napi_value tensor_to_bytes(const Arguments& arguments);
/** item(tensor) -> its only element as a number. */
napi_value tensor_item(const Arguments& arguments);
/** shape(tensor), strides(tensor) -> number[]. */
napi_value tensor_shape(const Arguments& arguments);
napi_value tensor_strides(const Arguments& arguments);
/** dtype(tensor), device(tensor) -> their numbers. */
napi_value tensor_dtype(const Arguments& arguments);
napi_value tensor_device(const Arguments& arguments);
napi_value tensor_is_contiguous(const Arguments& arguments);
/** dispose(handle) -> whether there was a tensor. */
napi_value dispose_tensor(const Arguments& arguments);
/** disposeAll(handles): frees those that are alive. */
napi_value dispose_tensors(const Arguments& arguments);
/** liveTensors() -> number of handles alive. */
napi_value live_tensors(const Arguments& arguments);

/** mapFile(path) -> id of a private mapping: writes stay in memory. */
napi_value map_file(const Arguments& arguments);
/** mappedLength(id) -> bytes. */
napi_value mapped_length(const Arguments& arguments);
/** mappedBytes(id, offsetBytes, lengthBytes) -> Uint8Array with a copy. */
napi_value mapped_bytes(const Arguments& arguments);
/**
 * mappedTensor(id, offsetBytes, dtype, shape) -> handle of a tensor on the mapping itself; the tensor keeps
 * the mapping alive.
 */
napi_value mapped_tensor(const Arguments& arguments);
/** unmapFile(id): releases the mapping; tensors on it stay valid. */
napi_value unmap_file(const Arguments& arguments);

} // namespace lorafit
