// libcuda: the driver's functions that libtorch's allocator, lorafit's own kernels and Triton call, on the
// phantom card.
#include <cuda.h>

#include <cstdio>
#include <string>

#include "card.h"

using phantom::card;
using phantom::facts;

namespace {

void* address_of(CUdeviceptr address) { return reinterpret_cast<void*>(address); }
CUresult told(int error) { return static_cast<CUresult>(error); }
CUcontext only_context() { return reinterpret_cast<CUcontext>(uintptr_t{1}); }

#define TURN const std::lock_guard<std::mutex> turn(card().mutex)

} // namespace

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int* version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = facts().cards, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int index) { return *device = index, CUDA_SUCCESS; }

CUresult cuDeviceGetName(char* name, int length, CUdevice) {
  return std::snprintf(name, length, "%s", facts().name.c_str()), CUDA_SUCCESS;
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice) { return *bytes = facts().memory_bytes, CUDA_SUCCESS; }

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
  switch (which) {
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR: *value = facts().major; break;
    case CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR: *value = facts().minor; break;
    case CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT: *value = facts().multiprocessors; break;
    case CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN: *value = (facts().major >= 8 ? 227 : 64) << 10; break;
    case CU_DEVICE_ATTRIBUTE_MAX_THREADS_PER_BLOCK: *value = 1024; break;
    case CU_DEVICE_ATTRIBUTE_WARP_SIZE: *value = 32; break;
    case CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK: *value = 65536; break;
    case CU_DEVICE_ATTRIBUTE_CLOCK_RATE: *value = 1980000; break;
    case CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE: *value = 2619000; break;
    case CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH: *value = 5120; break;
    case CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED: *value = 1; break;
    default: *value = 0;
  }
  return CUDA_SUCCESS;
}

/** Returns an empty table of the functions that NVIDIA's own libraries share; its first word is its size. */
CUresult cuGetExportTable(const void** table, const CUuuid*) {
  static const size_t empty[2] = {sizeof(size_t[2]), 0};
  return *table = empty, CUDA_SUCCESS;
}

CUresult cuGetErrorString(CUresult error, const char** text) {
  return *text = error == CUDA_SUCCESS ? "no error" : error == CUDA_ERROR_OUT_OF_MEMORY ? "out of memory" : "unknown error",
         CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult, const char** text) { return *text = "CUDA_ERROR", CUDA_SUCCESS; }

CUresult cuCtxGetCurrent(CUcontext* context) { return *context = only_context(), CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice* device) { return *device = phantom::current_device(), CUDA_SUCCESS; }
CUresult cuCtxPushCurrent_v2(CUcontext) { return CUDA_SUCCESS; }
CUresult cuCtxPopCurrent_v2(CUcontext* context) { return *context = only_context(), CUDA_SUCCESS; }
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return *context = only_context(), CUDA_SUCCESS; }

CUresult cuDevicePrimaryCtxGetState(CUdevice device, unsigned* flags, int* active) {
  TURN;
  return *flags = 0, *active = card().has_context(device), CUDA_SUCCESS;
}

// Memory, by segments.

CUresult cuMemGetAllocationGranularity(size_t* bytes, const CUmemAllocationProp*, CUmemAllocationGranularity_flags) {
  return *bytes = size_t{2} << 20, CUDA_SUCCESS;
}

CUresult cuMemAddressReserve(CUdeviceptr* address, size_t bytes, size_t, CUdeviceptr, unsigned long long) {
  TURN;
  void* range = nullptr;
  const int error = card().reserve(&range, bytes);
  *address = reinterpret_cast<CUdeviceptr>(range);
  return told(error);
}

CUresult cuMemAddressFree(CUdeviceptr address, size_t bytes) {
  TURN;
  return told(card().release(address_of(address), bytes));
}

CUresult cuMemCreate(
    CUmemGenericAllocationHandle* handle, size_t bytes, const CUmemAllocationProp*, unsigned long long) {
  TURN;
  uint64_t segment = 0;
  const int error = card().create(&segment, bytes);
  *handle = segment;
  return told(error);
}

CUresult cuMemMap(CUdeviceptr address, size_t bytes, size_t, CUmemGenericAllocationHandle handle, unsigned long long) {
  TURN;
  return told(card().map(address_of(address), bytes, handle));
}

CUresult cuMemUnmap(CUdeviceptr address, size_t bytes) {
  TURN;
  return told(card().unmap(address_of(address), bytes));
}

CUresult cuMemRelease(CUmemGenericAllocationHandle handle) {
  TURN;
  return told(card().destroy(handle));
}

CUresult cuMemSetAccess(CUdeviceptr, size_t, const CUmemAccessDesc*, size_t) { return CUDA_SUCCESS; }

CUresult cuPointerGetAttribute(void* value, CUpointer_attribute which, CUdeviceptr address) {
  TURN;
  const bool device = card().where(address_of(address)) == phantom::Where::kDevice;
  switch (which) {
    case CU_POINTER_ATTRIBUTE_DEVICE_POINTER:
      if (!device) return CUDA_ERROR_INVALID_VALUE;
      return *static_cast<CUdeviceptr*>(value) = address, CUDA_SUCCESS;
    case CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL: return *static_cast<int*>(value) = phantom::current_device(), CUDA_SUCCESS;
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

// Kernels: machine code is accepted unread, and remembered by name.

CUresult cuModuleLoadData(CUmodule* module, const void*) {
  TURN;
  card().need_context("a module is loaded");
  return *module = reinterpret_cast<CUmodule>(new char), CUDA_SUCCESS;
}

CUresult cuModuleLoadDataEx(CUmodule* module, const void* code, unsigned, CUjit_option*, void**) {
  return cuModuleLoadData(module, code);
}

CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }

CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char* name) {
  return *function = reinterpret_cast<CUfunction>(new std::string(name)), CUDA_SUCCESS;
}


CUresult cuFuncGetAttribute(int* value, CUfunction_attribute which, CUfunction) {
  return *value = which == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK ? 1024 : 0, CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; }
CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }

CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, CUfunction, int, size_t) {
  return *blocks = 2, CUDA_SUCCESS;
}

CUresult cuLaunchKernel(
    CUfunction function, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream stream,
    void**, void**) {
  TURN;
  card().need_context("a kernel is launched");
  return told(card().launch(stream, *reinterpret_cast<const std::string*>(function)));
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void**, void**) {
  TURN;
  return told(card().launch(config->hStream, *reinterpret_cast<const std::string*>(function)));
}

} // extern "C"
