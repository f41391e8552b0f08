// Blocks of a product of bfloat16 on 512-bit vectors. A panel is at most 64 columns of the right factor. It
// is packed so that a vector holds, for 16 columns, pairs along the summed dimension ("inner").
//
// A block of a few rows of the left factor runs along a panel, with its sums in registers until the last
// pair. No library's header is included; loop_chunks.h gives the reason.
#pragma once

#include "product_loops.h"

#include <immintrin.h>

namespace lorafit {
namespace {

constexpr int64_t kLanes = 16;    // columns, or rows, per vector of pairs
constexpr int64_t kWordBytes = 4; // bytes of a pair

int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/** Return masks of the first `count` of 16 or 32 lanes. */
inline __mmask16 first_of_16(int64_t count) {
  return count >= 16 ? 0xffff : count <= 0 ? 0 : static_cast<__mmask16>((1u << count) - 1);
}
inline __mmask32 first_of_32(int64_t count) {
  return count >= 32 ? 0xffffffffu : count <= 0 ? 0 : static_cast<__mmask32>((1ull << count) - 1);
}

inline __m512 widened(__m256i bfloat16) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bfloat16), 16));
}

/** A packed panel: for each pair along `inner`, `vectors` vectors of 16 lanes. */
struct Panel {
  char* start;
  int64_t vectors;
  char* at(int64_t pair, int64_t vector) const { return start + (pair * vectors + vector) * kLanes * kWordBytes; }
};

/** Packs contiguous lanes; steps along `inner` are a stride apart. Missing lanes and steps become zeros. */
void pack_side_by_side(const uint16_t* from, int64_t inner_stride, int64_t lanes, int64_t inner, Panel panel) {
  alignas(64) static const uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t step = 0; step < inner; step += 2) {
    const uint16_t *even = from + step * inner_stride, *odd = even + inner_stride;
    for (int64_t vector = 0; vector < panel.vectors; vector += 2) {
      const __mmask32 there = first_of_32(lanes - vector * kLanes);
      const __m512i first = _mm512_maskz_loadu_epi16(there, even + vector * kLanes);
      const __m512i second = _mm512_maskz_loadu_epi16(step + 1 < inner ? there : 0, odd + vector * kLanes);
      char* to = panel.at(step / 2, vector);
      _mm512_store_si512(to, _mm512_permutex2var_epi16(first, low, second));
      if (vector + 1 < panel.vectors)
        _mm512_store_si512(to + 64, _mm512_permutex2var_epi16(first, high, second));
    }
  }
}

/** Transposes sixteen vectors of 16 words each. */
inline void transpose(__m512i* rows) {
  __m512i pairs[16], fours[16];
  for (int i = 0; i < 8; ++i) {
    pairs[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    fours[4 * i] = _mm512_unpacklo_epi64(pairs[4 * i], pairs[4 * i + 2]);
    fours[4 * i + 1] = _mm512_unpackhi_epi64(pairs[4 * i], pairs[4 * i + 2]);
    fours[4 * i + 2] = _mm512_unpacklo_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
    fours[4 * i + 3] = _mm512_unpackhi_epi64(pairs[4 * i + 1], pairs[4 * i + 3]);
  }
  // fours[4 g + c] holds, in each quarter q, the words of column 4 q + c in the rows 4 g to 4 g + 3.
  for (int c = 0; c < 4; ++c) {
    const __m512i upper_even = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88);
    const __m512i upper_odd = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xdd);
    const __m512i lower_even = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88);
    const __m512i lower_odd = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xdd);
    rows[c] = _mm512_shuffle_i32x4(upper_even, lower_even, 0x88);
    rows[4 + c] = _mm512_shuffle_i32x4(upper_odd, lower_odd, 0x88);
    rows[8 + c] = _mm512_shuffle_i32x4(upper_even, lower_even, 0xdd);
    rows[12 + c] = _mm512_shuffle_i32x4(upper_odd, lower_odd, 0xdd);
  }
}

/**
 * Packs lanes that are a stride apart; steps along `inner` are contiguous. Missing lanes and steps become
 * zeros.
 */
void pack_apart(const uint16_t* from, int64_t lane_stride, int64_t lanes, int64_t inner, Panel panel) {
  for (int64_t vector = 0; vector < panel.vectors; ++vector) {
    const uint16_t* first = from + vector * kLanes * lane_stride;
    const int64_t there = smaller(kLanes, lanes - vector * kLanes);
    for (int64_t step = 0; step < inner; step += 2 * kLanes) {
      const __mmask32 steps = first_of_32(inner - step);
      __m512i words[kLanes];
      for (int lane = 0; lane < kLanes; ++lane)
        words[lane] = lane < there ? _mm512_maskz_loadu_epi16(steps, first + lane * lane_stride + step)
                                   : _mm512_setzero_si512();
      transpose(words);
      const int64_t pairs = smaller(kLanes, (inner - step + 1) / 2);
      for (int pair = 0; pair < pairs; ++pair) _mm512_store_si512(panel.at(step / 2 + pair, vector), words[pair]);
    }
  }
}

/** A block's rows of `left`: pairs along `inner`, contiguous or a stride apart. */
struct LeftRows {
  const char* start;
  int64_t row_bytes, pair_bytes;
  /**
   * Whether a single element follows the last pair. Packed rows have a zero there instead, which completes
   * the pair.
   */
  bool odd;
};

/**
 * Where the sums of a block are written; if `inner` is split into parts, also where the sums so far are held.
 */
struct Sums {
  uint16_t* into;
  int64_t row_stride, columns;
  float alpha, beta;
  float* held; // rows of 64
  bool first, last;
};

/** Bytes of a pair: two elements, or the last single element of an odd `inner`. */
enum class Pair { kWhole = 4, kHalf = 2 };

template <Pair kPair, int kRows, int kVectors>
inline __attribute__((always_inline)) void add_pair(
    __m512 (&sums)[kRows][kVectors], const char* const (&threes)[(kRows + 2) / 3], int64_t row_bytes,
    const char* right) {
  __m512i columns[kVectors];
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) columns[v] = _mm512_load_si512(right + 64 * v);
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
    int32_t word = 0;
    __builtin_memcpy(&word, threes[row / 3] + row % 3 * row_bytes, static_cast<int>(kPair));
    const __m512i pair = _mm512_set1_epi32(word);
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sums[row][v] = _mm512_dpbf16_ps(sums[row][v], (__m512bh)pair, (__m512bh)columns[v]);
  }
}

/** Sums a block of rows along a panel, in registers. */
template <int kRows, int kVectors>
void multiply_block(const LeftRows& left, const char* right, int64_t pairs, const Sums& to) {
  __m512 sums[kRows][kVectors];
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v)
      sums[row][v] = to.first ? _mm512_setzero_ps() : _mm512_load_ps(to.held + row * kPanelColumns + v * kLanes);
  }
  if (to.last) { // prefetches the result's memory
    for (int row = 0; row < kRows; ++row) {
      for (int v = 0; v < kVectors; v += 2)
        _mm_prefetch(reinterpret_cast<const char*>(to.into + row * to.row_stride + v * kLanes), _MM_HINT_T0);
    }
  }
  constexpr int kThrees = (kRows + 2) / 3; // three rows share a base: instructions can address multiples of a stride
  const char* threes[kThrees];
  for (int three = 0; three < kThrees; ++three) threes[three] = left.start + 3 * three * left.row_bytes;
  for (int64_t pair = 0; pair < pairs; ++pair) {
    add_pair<Pair::kWhole>(sums, threes, left.row_bytes, right);
    right += kVectors * 64;
#pragma GCC unroll 6
    for (int three = 0; three < kThrees; ++three) threes[three] += left.pair_bytes;
  }
  if (left.odd) add_pair<Pair::kHalf>(sums, threes, left.row_bytes, right);
  const __m512 alpha = _mm512_set1_ps(to.alpha), beta = _mm512_set1_ps(to.beta);
#pragma GCC unroll 16
  for (int row = 0; row < kRows; ++row) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      if (!to.last) {
        _mm512_store_ps(to.held + row * kPanelColumns + v * kLanes, sums[row][v]);
        continue;
      }
      const __mmask16 there = first_of_16(to.columns - v * kLanes);
      uint16_t* into = to.into + row * to.row_stride + v * kLanes;
      __m512 result = _mm512_mul_ps(sums[row][v], alpha);
      if (to.beta != 0) result = _mm512_fmadd_ps(beta, widened(_mm256_maskz_loadu_epi16(there, into)), result);
      _mm256_mask_storeu_epi16(into, there, (__m256i)_mm512_cvtneps_pbh(result));
    }
  }
}

/** Multiplies in blocks of kRows rows, and the remaining rows in smaller blocks. */
template <int kRows, int kVectors>
void multiply_rows(LeftRows left, int64_t rows, const char* right, int64_t pairs, Sums to) {
  for (; rows >= kRows; rows -= kRows) {
    multiply_block<kRows, kVectors>(left, right, pairs, to);
    left.start += kRows * left.row_bytes;
    to.into += kRows * to.row_stride;
    to.held += kRows * kPanelColumns;
  }
  if constexpr (kRows > 1) {
    if (rows > 0) multiply_rows<(kRows + 1) / 2, kVectors>(left, rows, right, pairs, to);
  }
}

using MultiplyRows = void (*)(LeftRows left, int64_t rows, const char* right, int64_t pairs, Sums to);

/**
 * Indexed by a panel's vectors - 1. A block has as many sums as registers allow, and at least twelve, to keep
 * two pipes busy.
 */
constexpr MultiplyRows kMultiplyRows[] = {
    multiply_rows<16, 1>, multiply_rows<12, 2>, multiply_rows<8, 3>, multiply_rows<6, 4>};

} // namespace
} // namespace lorafit
