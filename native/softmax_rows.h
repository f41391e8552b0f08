// Softmax of rows of bfloat16 with 512-bit vectors, and its gradient: the values of causal_softmax and
// softmax_backward (loops_of_attention.h), in about half the time.
#pragma once

#include "product_panels.h"

namespace lorafit {
namespace {

/** Two vectors of float32, of 32 elements that are side by side. */
struct Wide {
  __m512 low, high;
};

inline Wide widened_32(const uint16_t* from, __mmask32 there) {
  const __m512i both = _mm512_maskz_loadu_epi16(there, from);
  return {widened(_mm512_castsi512_si256(both)), widened(_mm512_extracti64x4_epi64(both, 1))};
}

inline void store_32(uint16_t* to, __mmask32 there, Wide x) {
  _mm512_mask_storeu_epi16(to, there, (__m512i)_mm512_cvtne2ps_pbh(x.high, x.low));
}

/** Returns e^x for x <= 0, as exp_of does (loop_chunks.h). */
inline __m512 exps_of(__m512 x) {
  const __m512 inside = _mm512_max_ps(x, _mm512_set1_ps(-87.0f)), shift = _mm512_set1_ps(0x1.8p23f);
  const __m512 whole = _mm512_sub_ps(_mm512_fmadd_ps(inside, _mm512_set1_ps(1.44269504f), shift), shift);
  const __m512 f = _mm512_fmadd_ps(whole, _mm512_set1_ps(2.12194440e-4f),
                                   _mm512_fnmadd_ps(whole, _mm512_set1_ps(0.693359375f), inside));
  __m512 sum = _mm512_set1_ps(1.0f / 720);
  sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(1.0f / 120));
  sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(1.0f / 24));
  sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(1.0f / 6));
  sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(0.5f));
  sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(1.0f));
  sum = _mm512_fmadd_ps(sum, f, _mm512_set1_ps(1.0f));
  return _mm512_scalef_ps(sum, whole);
}

/** Returns the largest of a row's elements. */
inline float largest_of(const uint16_t* row, int64_t columns) {
  const __m512i least = _mm512_set1_epi16(static_cast<int16_t>(0xff80)); // minus infinity
  __m512 low = _mm512_set1_ps(-__builtin_inff()), high = low;
  for (int64_t at = 0; at < columns; at += 2 * kLanes) {
    const __m512i both = _mm512_mask_loadu_epi16(least, first_of_32(columns - at), row + at);
    low = _mm512_max_ps(low, widened(_mm512_castsi512_si256(both)));
    high = _mm512_max_ps(high, widened(_mm512_extracti64x4_epi64(both, 1)));
  }
  return _mm512_reduce_max_ps(_mm512_max_ps(low, high));
}

/** Exponentials that are held until their sum is known; those of longer rows are computed twice. */
constexpr int64_t kHeldExps = 8192;

/** Replaces a row's scores by the softmax of scale * scores. */
void softmax_row(uint16_t* scores, int64_t columns, float scale) {
  alignas(64) float held[kHeldExps + 2 * kLanes];
  const __m512 most = _mm512_set1_ps(largest_of(scores, columns)), scales = _mm512_set1_ps(scale);
  const auto exps = [&](int64_t at, __mmask32 there) __attribute__((always_inline)) {
    const Wide x = widened_32(scores + at, there);
    return Wide{exps_of(_mm512_mul_ps(scales, _mm512_sub_ps(x.low, most))),
                exps_of(_mm512_mul_ps(scales, _mm512_sub_ps(x.high, most)))};
  };
  __m512 low = _mm512_setzero_ps(), high = low;
  for (int64_t at = 0; at < columns; at += 2 * kLanes) {
    const __mmask32 there = first_of_32(columns - at);
    const Wide e = exps(at, there);
    low = _mm512_mask_add_ps(low, static_cast<__mmask16>(there), low, e.low);
    high = _mm512_mask_add_ps(high, static_cast<__mmask16>(there >> 16), high, e.high);
    if (at >= kHeldExps) continue;
    _mm512_store_ps(held + at, e.low);
    _mm512_store_ps(held + at + kLanes, e.high);
  }
  const __m512 factor = _mm512_set1_ps(1 / _mm512_reduce_add_ps(_mm512_add_ps(low, high)));
  for (int64_t at = 0; at < columns; at += 2 * kLanes) {
    const __mmask32 there = first_of_32(columns - at);
    const Wide e =
        at < kHeldExps ? Wide{_mm512_load_ps(held + at), _mm512_load_ps(held + at + kLanes)} : exps(at, there);
    store_32(scores + at, there, {_mm512_mul_ps(e.low, factor), _mm512_mul_ps(e.high, factor)});
  }
}

/** Overwrites a row's grad with scale * weights * (grad - sum(grad * weights)). */
void softmax_row_backward(uint16_t* grad, const uint16_t* weights, int64_t columns, float scale) {
  __m512 low = _mm512_setzero_ps(), high = low;
  for (int64_t at = 0; at < columns; at += 2 * kLanes) {
    const __mmask32 there = first_of_32(columns - at);
    const Wide d = widened_32(grad + at, there), w = widened_32(weights + at, there);
    low = _mm512_fmadd_ps(d.low, w.low, low);
    high = _mm512_fmadd_ps(d.high, w.high, high);
  }
  const __m512 mean = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(low, high)));
  const __m512 scales = _mm512_set1_ps(scale);
  for (int64_t at = 0; at < columns; at += 2 * kLanes) {
    const __mmask32 there = first_of_32(columns - at);
    const Wide d = widened_32(grad + at, there), w = widened_32(weights + at, there);
    store_32(grad + at, there,
             {_mm512_mul_ps(_mm512_mul_ps(scales, w.low), _mm512_sub_ps(d.low, mean)),
              _mm512_mul_ps(_mm512_mul_ps(scales, w.high), _mm512_sub_ps(d.high, mean))});
  }
}

} // namespace
} // namespace lorafit
