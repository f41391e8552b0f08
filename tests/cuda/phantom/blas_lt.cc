// libcublasLt: counts products like libcublas, from cublasLt's descriptions of matrices.
#include <cstdint>
#include <cstring>

#include "card.h"

using phantom::card;

namespace {

constexpr int kDone = 0;
constexpr int kFailed = 14; // CUBLAS_STATUS_INTERNAL_ERROR

/** A matrix, in cublasLt's description. */
struct Layout {
  uint64_t rows, columns;
};

} // namespace

extern "C" {

size_t cublasLtGetVersion() { return 130100; }
int cublasLtMatmulDescCreate(void** descriptor, int, int) { return *descriptor = new int, kDone; }
int cublasLtMatmulDescDestroy(void* descriptor) { return delete static_cast<int*>(descriptor), kDone; }
int cublasLtMatmulDescSetAttribute(void*, int, const void*, size_t) { return kDone; }
int cublasLtMatmulPreferenceCreate(void** preference) { return *preference = new int, kDone; }
int cublasLtMatmulPreferenceDestroy(void* preference) { return delete static_cast<int*>(preference), kDone; }
int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return kDone; }

int cublasLtMatrixLayoutCreate(void** layout, int, uint64_t rows, uint64_t columns, int64_t) {
  return *layout = new Layout{rows, columns}, kDone;
}

int cublasLtMatrixLayoutDestroy(void* layout) { return delete static_cast<Layout*>(layout), kDone; }
int cublasLtMatrixLayoutSetAttribute(void*, int, const void*, size_t) { return kDone; }

int cublasLtMatmulAlgoGetHeuristic(
    void*, void*, void*, void*, void*, void*, void*, int, void* results, int* count) {
  constexpr size_t kResultBytes = 96; // an algorithm, its workspace (none), its status (done), waves, and reserved words
  std::memset(results, 0, kResultBytes);
  return *count = 1, kDone;
}

int cublasLtMatmul(
    void*, void*, const void*, const void* a, void* a_layout, const void* b, void*, const void*, const void*,
    void*, void* d, void* d_layout, const void*, void*, size_t, void* stream) {
  const auto& from = *static_cast<const Layout*>(a_layout);
  const auto& to = *static_cast<const Layout*>(d_layout);
  const double inner = static_cast<double>(from.rows) * from.columns / to.rows;
  const std::lock_guard<std::mutex> turn(card().mutex);
  return card().product(stream, 2.0 * to.rows * to.columns * inner, {a, b, d}) ? kFailed : kDone;
}

} // extern "C"
