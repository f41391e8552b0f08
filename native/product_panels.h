// Panels: the right factor of a product of bfloat16, packed for 512-bit vectors and for tiles of AMX alike. A
// panel is at most 64 columns. A vector holds, for 16 columns, pairs along the summed dimension ("inner").
// No library's header is included; loop_chunks.h gives the reason.
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

/** A packed panel: for each of `pairs` pairs along `inner`, `vectors` vectors of 16 lanes. */
struct Panel {
  char* start;
  int64_t vectors, pairs;
  char* at(int64_t pair, int64_t vector) const { return start + (pair * vectors + vector) * kLanes * kWordBytes; }
};

/** Returns the pairs of so many steps along `inner`, rounded up to a multiple of `together`. */
inline int64_t pairs_of(int64_t steps, int64_t together) {
  return (steps + 2 * together - 1) / (2 * together) * together;
}

/** Packs contiguous lanes; steps along `inner` are a stride apart. Missing lanes and steps become zeros. */
void pack_side_by_side(const uint16_t* from, int64_t inner_stride, int64_t lanes, int64_t inner, Panel panel) {
  alignas(64) static const uint16_t kLow[32] = {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
                                                8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47};
  const __m512i low = _mm512_load_si512(kLow), high = _mm512_add_epi16(low, _mm512_set1_epi16(16));
  for (int64_t step = 0; step < 2 * panel.pairs; step += 2) {
    const uint16_t *even = from + step * inner_stride, *odd = even + inner_stride;
    for (int64_t vector = 0; vector < panel.vectors; vector += 2) {
      const __mmask32 there = first_of_32(lanes - vector * kLanes);
      const __m512i first = _mm512_maskz_loadu_epi16(step < inner ? there : 0, even + vector * kLanes);
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
    for (int64_t step = 0; step < 2 * panel.pairs; step += 2 * kLanes) {
      const __mmask32 steps = first_of_32(inner - step);
      __m512i words[kLanes];
      for (int lane = 0; lane < kLanes; ++lane)
        words[lane] = lane < there ? _mm512_maskz_loadu_epi16(steps, first + lane * lane_stride + step)
                                   : _mm512_setzero_si512();
      transpose(words);
      const int64_t pairs = smaller(kLanes, panel.pairs - step / 2);
      for (int pair = 0; pair < pairs; ++pair) _mm512_store_si512(panel.at(step / 2 + pair, vector), words[pair]);
    }
  }
}

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

} // namespace
} // namespace lorafit
