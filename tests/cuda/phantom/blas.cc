// libcublas: counts products, and checks that their operands lie on the phantom card.
#include <cstddef>

#include "card.h"

using phantom::card;

namespace {

constexpr int kDone = 0;
constexpr int kFailed = 14; // CUBLAS_STATUS_INTERNAL_ERROR

struct Handle {
  void* stream = nullptr;
  int math_mode = 0, pointer_mode = 0;
};

int product(void* handle, double m, double n, double k, double batch, std::initializer_list<const void*> operands) {
  const std::lock_guard<std::mutex> turn(card().mutex);
  const int error = card().product(static_cast<Handle*>(handle)->stream, 2 * m * n * k * batch, operands);
  return error ? kFailed : kDone;
}

} // namespace

extern "C" {

int cublasCreate_v2(void** handle) { return *handle = new Handle, kDone; }
int cublasDestroy_v2(void* handle) { return delete static_cast<Handle*>(handle), kDone; }
int cublasSetStream_v2(void* handle, void* stream) { return static_cast<Handle*>(handle)->stream = stream, kDone; }
int cublasSetWorkspace_v2(void*, void*, size_t) { return kDone; }
int cublasSetMathMode(void* handle, int mode) { return static_cast<Handle*>(handle)->math_mode = mode, kDone; }
int cublasGetMathMode(void* handle, int* mode) { return *mode = static_cast<Handle*>(handle)->math_mode, kDone; }

int cublasSetPointerMode_v2(void* handle, int mode) {
  return static_cast<Handle*>(handle)->pointer_mode = mode, kDone;
}

int cublasGetPointerMode_v2(void* handle, int* mode) {
  return *mode = static_cast<Handle*>(handle)->pointer_mode, kDone;
}

int cublasGemmEx(
    void* handle, int, int, int m, int n, int k, const void*, const void* a, int, int, const void* b, int, int,
    const void*, void* c, int, int, int, int) {
  return product(handle, m, n, k, 1, {a, b, c});
}

int cublasSgemm_v2(
    void* handle, int, int, int m, int n, int k, const float*, const void* a, int, const void* b, int, const float*,
    void* c, int) {
  return product(handle, m, n, k, 1, {a, b, c});
}

int cublasSgemmEx(
    void* handle, int, int, int m, int n, int k, const float*, const void* a, int, int, const void* b, int, int,
    const float*, void* c, int, int) {
  return product(handle, m, n, k, 1, {a, b, c});
}

int cublasSgemv_v2(
    void* handle, int, int m, int n, const float*, const void* a, int, const void* x, int, const float*, void* y,
    int) {
  return product(handle, m, n, 1, 1, {a, x, y});
}

int cublasGemmStridedBatchedEx(
    void* handle, int, int, int m, int n, int k, const void*, const void* a, int, int, long long, const void* b, int,
    int, long long, const void*, void* c, int, int, long long, int batch, int, int) {
  return product(handle, m, n, k, batch, {a, b, c});
}

int cublasSgemmStridedBatched(
    void* handle, int, int, int m, int n, int k, const float*, const void* a, int, long long, const void* b, int,
    long long, const float*, void* c, int, long long, int batch) {
  return product(handle, m, n, k, batch, {a, b, c});
}

int cublasSdot_v2(void* handle, int n, const void* x, int, const void* y, int, void*) {
  return product(handle, n, 1, 1, 1, {x, y});
}

int cublasDotEx(void* handle, int n, const void* x, int, int, const void* y, int, int, void*, int, int) {
  return product(handle, n, 1, 1, 1, {x, y});
}

} // extern "C"
