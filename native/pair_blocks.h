// Blocks of a product of bfloat16 on processors that multiply pairs of bfloat16 (AVX512-BF16). A block of a
// few rows of the left factor runs along a panel, with its sums in registers until the last pair.
#pragma once

#include "product_panels.h"

namespace lorafit {
namespace {

/** Pairs of a panel are a multiple of this. */
constexpr int64_t kPanelPairs = 1;
/**
 * Most pairs of a tile's panels: half a MiB for 64 columns, which fits a core's cache of at least 1 MiB. Of
 * several panels, fewer pairs.
 */
constexpr int64_t kMostPairs = 2048, kPairsOfPanels = 512;
/**
 * Rows of `left` that run along all panels of a tile before the next rows: few, so that results are read and
 * written row by row. kPackedRows: rows that are packed at once if they are contiguous.
 */
constexpr int64_t kRowsOfPanels = 12, kPackedRows = 48;
/** Rows of attention whose scores are computed at once; a multiple of a block's rows. */
constexpr int64_t kRowsOfScores = 48;

/** Holds what the processor needs to be told before it multiplies blocks: nothing. */
struct [[maybe_unused]] Unit {};

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

/** Bytes of working memory that `left_rows` needs for so many rows and steps. */
constexpr int64_t left_room_bytes(int64_t rows, int64_t steps) { return (steps + 1) / 2 * rows * kWordBytes; }

/** Returns rows of `left`, packed in `room` if they are contiguous: at most kPackedRows then. */
LeftRows left_rows(const MatrixView& left, int64_t rows, int64_t steps, bool, char* room) {
  if (left.column_stride == 1)
    return {reinterpret_cast<const char*>(left.start), 2 * left.row_stride, kWordBytes, steps % 2 == 1};
  pack_side_by_side(left.start, left.column_stride, rows, steps, {room, kPackedRows / kLanes, pairs_of(steps, 1)});
  return {room, kWordBytes, kPackedRows * kWordBytes, false};
}

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

/** Computes the sums of some rows along `steps` steps of a panel. */
void multiply_along(const LeftRows& left, int64_t rows, const Panel& right, int64_t steps, const Sums& to) {
  kMultiplyRows[right.vectors - 1](left, rows, right.start, left.odd ? steps / 2 : (steps + 1) / 2, to);
}

} // namespace
} // namespace lorafit
