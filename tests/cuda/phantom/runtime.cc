// libcudart: the CUDA runtime's functions that libtorch calls, on the phantom card.
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <string>
#include <unordered_map>
#include <utility>

#include "card.h"

extern "C" int phantom_absent(const char* name);

using phantom::Card;
using phantom::card;
using phantom::facts;

namespace {

/** Holds the card's mutex for one call. */
class Turn {
 public:
  Turn() : lock_(card().mutex) {}
  Card* operator->() const { return &card(); }
  /** Returns the card, for a call that works on the thread's device and so creates a context there. */
  Card* on_device() const {
    card().enter(phantom::current_device());
    return &card();
  }

 private:
  std::lock_guard<std::mutex> lock_;
};

thread_local cudaError_t last_error = cudaSuccess;

cudaError_t told(int error) {
  // An allocation that fails, and work that is not done yet, leave the context usable.
  if (error != cudaSuccess) last_error = static_cast<cudaError_t>(error);
  return static_cast<cudaError_t>(error);
}

struct Kernel {
  std::string name;
};

/** Returns the known kernels, by the host functions that stand for them. */
std::unordered_map<const void*, Kernel>& kernels() {
  static auto* known = new std::unordered_map<const void*, Kernel>;
  return *known;
}

struct Configuration {
  dim3 grid, block;
  size_t shared;
  cudaStream_t stream;
};

thread_local Configuration configuration;

std::string_view name_of(const void* function) {
  const auto found = kernels().find(function);
  return found == kernels().end() ? std::string_view("unregistered") : std::string_view(found->second.name);
}

cudaError_t launch(const void* function, cudaStream_t stream) {
  return told(Turn().on_device()->launch(stream, name_of(function)));
}

phantom::Event& event_of(cudaEvent_t event) { return *reinterpret_cast<phantom::Event*>(event); }

int attribute(cudaDeviceAttr which) {
  switch (which) {
    case cudaDevAttrMaxThreadsPerBlock: return 1024;
    case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: return 1024;
    case cudaDevAttrMaxBlockDimZ: return 64;
    case cudaDevAttrMaxGridDimX: return 2147483647;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: return 65535;
    case cudaDevAttrMaxSharedMemoryPerBlock: return 48 << 10;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: return (facts().major >= 8 ? 227 : 64) << 10;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: return (facts().major >= 8 ? 228 : 64) << 10;
    case cudaDevAttrWarpSize: return 32;
    case cudaDevAttrMultiProcessorCount: return facts().multiprocessors;
    case cudaDevAttrMaxThreadsPerMultiProcessor: return 2048;
    case cudaDevAttrMaxRegistersPerBlock: return 65536;
    case cudaDevAttrComputeCapabilityMajor: return facts().major;
    case cudaDevAttrComputeCapabilityMinor: return facts().minor;
    case cudaDevAttrUnifiedAddressing: case cudaDevAttrCanMapHostMemory: return 1;
    case cudaDevAttrConcurrentKernels: case cudaDevAttrCooperativeLaunch: return 1;
    case cudaDevAttrL2CacheSize: return 50 << 20;
    case cudaDevAttrAsyncEngineCount: return 3;
    default: return 0;
  }
}

int unknown_of_driver() { return phantom_absent("a function of the driver"); }

} // namespace

extern "C" {

// The card.

cudaError_t cudaGetDeviceCount(int* count) { return *count = facts().cards, cudaSuccess; }
cudaError_t cudaGetDevice(int* device) { return *device = phantom::current_device(), cudaSuccess; }

cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= facts().cards) return told(cudaErrorInvalidDevice);
  phantom::current_device() = device;
  Turn().on_device(); // creates the context from CUDA 12 on
  return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaRuntimeGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  return *value = attribute(which), cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::snprintf(properties->name, sizeof properties->name, "%s", facts().name.c_str());
  properties->totalGlobalMem = facts().memory_bytes;
  properties->major = facts().major;
  properties->minor = facts().minor;
  properties->multiProcessorCount = facts().multiprocessors;
  properties->sharedMemPerBlock = attribute(cudaDevAttrMaxSharedMemoryPerBlock);
  properties->sharedMemPerBlockOptin = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  properties->sharedMemPerMultiprocessor = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  properties->regsPerBlock = properties->regsPerMultiprocessor = 65536;
  properties->warpSize = 32;
  properties->maxThreadsPerBlock = 1024;
  properties->maxThreadsPerMultiProcessor = 2048;
  properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
  properties->maxThreadsDim[2] = 64;
  properties->maxGridSize[0] = 2147483647;
  properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
  properties->maxBlocksPerMultiProcessor = 32;
  properties->l2CacheSize = 50 << 20;
  properties->textureAlignment = 512;
  properties->memoryBusWidth = 5120;
  properties->asyncEngineCount = 3;
  properties->unifiedAddressing = properties->canMapHostMemory = properties->concurrentKernels = 1;
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* id, int length, int) {
  return std::snprintf(id, length, "0000:01:00.0"), cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  return *least = 0, *greatest = -5, cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int, int) { return *can = 0, cudaSuccess; }

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }
cudaError_t cudaPeekAtLastError() { return last_error; }

const char* cudaGetErrorName(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "cudaError";
}

const char* cudaGetErrorString(cudaError_t error) {
  switch (static_cast<int>(error)) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorInvalidValue: return "invalid argument";
    case cudaErrorIllegalAddress: return "an illegal memory access was encountered";
    case cudaErrorLaunchFailure: return "unspecified launch failure";
    case cudaErrorNotSupported: return "operation not supported";
    default: return "unknown error";
  }
}

cudaError_t cudaGetDriverEntryPointByVersion(
    const char* name, void** function, unsigned, unsigned long long, cudaDriverEntryPointQueryResult* result) {
  static void* const driver = dlopen("libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
  *function = driver ? dlsym(driver, name) : nullptr;
  if (!*function) *function = reinterpret_cast<void*>(&unknown_of_driver); // libtorch asks for more functions than it calls
  if (result) *result = cudaDriverEntryPointSuccess;
  return cudaSuccess;
}

// Memory.

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  *free = Turn().on_device()->free_bytes();
  *total = facts().memory_bytes;
  return told(card().state());
}

cudaError_t cudaMalloc(void** address, size_t bytes) { return told(Turn().on_device()->allocate(address, bytes)); }
cudaError_t cudaFree(void* address) { return told(Turn()->free(address)); }
cudaError_t cudaHostAlloc(void** address, size_t bytes, unsigned) { return told(Turn().on_device()->pin(address, bytes)); }
cudaError_t cudaFreeHost(void* address) { return told(Turn()->unpin(address)); }

cudaError_t cudaHostRegister(void* address, size_t bytes, unsigned) {
  return Turn()->register_host(address, bytes), cudaSuccess;
}

cudaError_t cudaHostUnregister(void* address) { return Turn()->unregister_host(address), cudaSuccess; }

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  *attributes = {};
  switch (Turn().on_device()->where(address)) {
    case phantom::Where::kPageable: attributes->type = cudaMemoryTypeUnregistered; break;
    case phantom::Where::kPinned: attributes->type = cudaMemoryTypeHost; break;
    case phantom::Where::kDevice: attributes->type = cudaMemoryTypeDevice; break;
  }
  attributes->devicePointer = attributes->hostPointer = const_cast<void*>(address);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return told(Turn().on_device()->copy(to, from, bytes, nullptr, /*waits=*/true));
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  return told(Turn().on_device()->copy(to, from, bytes, stream, /*waits=*/false));
}

cudaError_t cudaMemset(void* to, int, size_t bytes) { return told(Turn().on_device()->fill(to, bytes, nullptr)); }

cudaError_t cudaMemsetAsync(void* to, int, size_t bytes, cudaStream_t stream) {
  return told(Turn().on_device()->fill(to, bytes, stream));
}

cudaError_t cudaMemcpyToSymbol(const void*, const void*, size_t, size_t, cudaMemcpyKind) { return cudaSuccess; }

// Streams and events.

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  static char* next = reinterpret_cast<char*>(uintptr_t{1} << 32);
  const Turn turn;
  turn.on_device();
  *stream = reinterpret_cast<cudaStream_t>(next++);
  turn->stream(*stream);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int) { return cudaStreamCreate(stream); }
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return Turn()->done(stream) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Turn turn;
  turn->synchronize(stream);
  return told(turn->state());
}

cudaError_t cudaDeviceSynchronize() {
  const Turn turn;
  turn.on_device()->synchronize();
  return told(turn->state());
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  const Turn turn;
  turn->wait(stream, event_of(event));
  return told(turn->state());
}

cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(
    cudaStream_t, cudaStreamCaptureStatus* status, unsigned long long*, cudaGraph_t*, const cudaGraphNode_t**,
    const cudaGraphEdgeData**, size_t*) {
  return *status = cudaStreamCaptureStatusNone, cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  Turn().on_device();
  *event = reinterpret_cast<cudaEvent_t>(new phantom::Event);
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) { return cudaEventCreateWithFlags(event, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t event) { return delete &event_of(event), cudaSuccess; }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Turn turn;
  turn->record(event_of(event), stream);
  return told(turn->state());
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Turn turn;
  if (turn->state()) return told(turn->state());
  return turn->done(event_of(event)) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  card().pass_gate();
  const Turn turn;
  turn->synchronize(event_of(event));
  return told(turn->state());
}

cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t start, cudaEvent_t end) {
  const Turn turn;
  *ms = static_cast<float>(event_of(end).recorded_ms - event_of(start).recorded_ms);
  return cudaSuccess;
}

// Kernels.

void** __cudaRegisterFatBinary(void*) {
  static void* module;
  return &module;
}

void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
char __cudaInitModule(void**) { return 1; }
void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

void __cudaRegisterFunction(
    void**, const char* function, char*, const char* name, int, uint3*, uint3*, dim3*, dim3*, int*) {
  kernels()[function] = {name};
}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, cudaStream_t stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<cudaStream_t*>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* function) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(function));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t stream) {
  return launch(kernel, stream);
}

cudaError_t cudaLaunchKernel(const void* function, dim3, dim3, void**, size_t, cudaStream_t stream) {
  return launch(function, stream);
}

cudaError_t cudaLaunchCooperativeKernel(const void* function, dim3, dim3, void**, size_t, cudaStream_t stream) {
  return launch(function, stream);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* function, void**) {
  return launch(function, config->stream);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->binaryVersion = attributes->ptxVersion = facts().major * 10 + facts().minor;
  attributes->maxDynamicSharedSizeBytes = attribute(cudaDevAttrMaxSharedMemoryPerBlock);
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int, size_t, unsigned) {
  return *blocks = 2, cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  return *blocks = 2, cudaSuccess;
}

} // extern "C"
