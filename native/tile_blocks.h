// Blocks of a product of bfloat16 on processors with a matrix unit (AMX). The unit has eight tiles of 16 rows
// of 64 bytes: 16 rows of pairs of a factor, or 16 rows and columns of sums. A block of up to 32 rows and
// columns runs along a panel, with its sums in tiles until the last pair.
#pragma once

#include "product_panels.h"

namespace lorafit {
namespace {

constexpr int64_t kTileRows = 16, kTileBytes = 1024, kRowBytes = 64;
constexpr int64_t kStepsOfTile = 32; // along `inner`

/** Pairs of a panel are a multiple of this: those of a tile. */
constexpr int64_t kPanelPairs = 16;
/** Most pairs of a tile's panels: a MiB for 64 columns; each core with AMX has a cache of 2 MiB. */
constexpr int64_t kMostPairs = 2048, kPairsOfPanels = 4096;
/** Rows of `left` that run along all panels of a tile before the next rows; also packed at once. */
constexpr int64_t kRowsOfPanels = 32, kPackedRows = 32;
/** Rows of attention whose scores are computed at once. */
constexpr int64_t kRowsOfScores = 64;

/** Tells the matrix unit the size of its tiles: the rows of sums and of `left`, tiles 0 to 5. */
void configure(int64_t rows) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  } tiles;
  for (int tile = 0; tile < 8; ++tile) {
    tiles.row_bytes[tile] = kRowBytes;
    tiles.rows[tile] = static_cast<uint8_t>(tile < 6 ? rows : kTileRows);
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(tiles)); // gcc's intrinsic names only the first eight bytes as read
}

/** Holds the matrix unit. A thread that has released it is faster to switch to and from. */
struct Unit {
  Unit() { configure(kTileRows); }
  ~Unit() { _tile_release(); }
};

/** Rows of `left` in tiles of 16 rows: as they lie in memory, or packed tile by tile. */
struct LeftRows {
  const char* start;
  int64_t row_bytes, step_bytes, tile_bytes;
  int64_t whole;    // steps of tiles that lie in memory
  const char* rest; // the last step, a tile for every 16 rows, if `inner` is no multiple of a tile's steps
};

/** Bytes of working memory that `left_rows` needs for so many rows and steps. */
constexpr int64_t left_room_bytes(int64_t rows, int64_t steps) {
  return (rows + kTileRows - 1) / kTileRows * ((steps + kStepsOfTile - 1) / kStepsOfTile) * kTileBytes;
}

/** Packs a tile of contiguous rows, whose steps are a stride apart. */
void pack_turned(const uint16_t* from, int64_t stride, int64_t rows, int64_t steps, char* to) {
  const __mmask16 there = first_of_16(rows);
  __m512i words[kLanes];
  for (int64_t pair = 0; pair < kLanes; ++pair) {
    const uint16_t *even = from + 2 * pair * stride, *odd = even + stride;
    const __m256i first = _mm256_maskz_loadu_epi16(2 * pair < steps ? there : 0, even);
    const __m256i second = _mm256_maskz_loadu_epi16(2 * pair + 1 < steps ? there : 0, odd);
    words[pair] = _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
  }
  transpose(words);
  for (int64_t row = 0; row < kTileRows; ++row) _mm512_store_si512(to + row * kRowBytes, words[row]);
}

/** Copies a tile's rows; missing rows and steps become zeros. */
void copy_tile(const uint16_t* from, int64_t stride, int64_t rows, int64_t steps, char* to) {
  const __mmask32 there = first_of_32(steps);
  for (int64_t row = 0; row < kTileRows; ++row)
    _mm512_store_si512(to + row * kRowBytes, _mm512_maskz_loadu_epi16(row < rows ? there : 0, from + row * stride));
}

/** Returns rows of `left`, packed in `room` if they are contiguous or if `again`: for several panels. */
LeftRows left_rows(const MatrixView& left, int64_t rows, int64_t steps, bool again, char* room) {
  const int64_t whole = steps / kStepsOfTile, all = (steps + kStepsOfTile - 1) / kStepsOfTile;
  const bool turned = left.column_stride != 1;
  if (!turned && !again) {
    LeftRows found{reinterpret_cast<const char*>(left.start), 2 * left.row_stride, kRowBytes,
                   2 * left.row_stride * kTileRows, whole, nullptr};
    if (whole == all) return found;
    for (int64_t row = 0; row < rows; row += kTileRows)
      copy_tile(left.start + row * left.row_stride + whole * kStepsOfTile, left.row_stride, rows - row,
                steps - whole * kStepsOfTile, room + row / kTileRows * kTileBytes);
    found.rest = room;
    return found;
  }
  for (int64_t row = 0; row < rows; row += kTileRows) {
    for (int64_t step = 0; step < all; ++step) {
      const uint16_t* from = left.start + row * left.row_stride + step * kStepsOfTile * left.column_stride;
      char* to = room + (row / kTileRows * all + step) * kTileBytes;
      const int64_t steps_there = steps - step * kStepsOfTile;
      if (turned) pack_turned(from, left.column_stride, rows - row, steps_there, to);
      else copy_tile(from, left.row_stride, rows - row, steps_there, to);
    }
  }
  return {room, kRowBytes, kTileBytes, all * kTileBytes, all, nullptr};
}

/** Adds a tile's steps to the sums, tiles 0 to 3. */
template <int kRowTiles, int kColumnTiles>
inline __attribute__((always_inline)) void add_step(
    const char* left, int64_t left_tile, int64_t left_stride, const char* right, int64_t right_stride) {
  _tile_loadd(6, right, right_stride);
  _tile_loadd(4, left, left_stride);
  _tile_dpbf16ps(0, 4, 6);
  if constexpr (kColumnTiles == 2) {
    _tile_loadd(7, right + kRowBytes, right_stride);
    _tile_dpbf16ps(1, 4, 7);
  }
  if constexpr (kRowTiles == 2) {
    _tile_loadd(5, left + left_tile, left_stride);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (kColumnTiles == 2) _tile_dpbf16ps(3, 5, 7);
  }
}

/** Loads the sums so far, or zeros. */
template <int kRowTiles, int kColumnTiles>
inline __attribute__((always_inline)) void begin_sums(const float* held, bool first) {
  constexpr int64_t kStride = kPanelColumns * 4;
  const float* below = held + kTileRows * kPanelColumns;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    return;
  }
  _tile_loadd(0, held, kStride);
  if constexpr (kColumnTiles == 2) _tile_loadd(1, held + kLanes, kStride);
  if constexpr (kRowTiles == 2) _tile_loadd(2, below, kStride);
  if constexpr (kRowTiles == 2 && kColumnTiles == 2) _tile_loadd(3, below + kLanes, kStride);
}

template <int kRowTiles, int kColumnTiles>
inline __attribute__((always_inline)) void hold_sums(float* held, int64_t columns) {
  const int64_t stride = columns * 4;
  float* below = held + kTileRows * columns;
  _tile_stored(0, held, stride);
  if constexpr (kColumnTiles == 2) _tile_stored(1, held + kLanes, stride);
  if constexpr (kRowTiles == 2) _tile_stored(2, below, stride);
  if constexpr (kRowTiles == 2 && kColumnTiles == 2) _tile_stored(3, below + kLanes, stride);
}

/** Rounds rows of 32 sums into the result. */
void write_sums(const float* sums, int64_t rows, int64_t columns, const Sums& to) {
  const __m512 alpha = _mm512_set1_ps(to.alpha), beta = _mm512_set1_ps(to.beta);
  const __mmask32 there = first_of_32(columns);
  for (int64_t row = 0; row < rows; ++row) {
    uint16_t* into = to.into + row * to.row_stride;
    __m512 low = _mm512_mul_ps(_mm512_load_ps(sums + row * 2 * kLanes), alpha);
    __m512 high = _mm512_mul_ps(_mm512_load_ps(sums + row * 2 * kLanes + kLanes), alpha);
    if (to.beta != 0) {
      const __m512i before = _mm512_maskz_loadu_epi16(there, into);
      low = _mm512_fmadd_ps(beta, widened(_mm512_castsi512_si256(before)), low);
      high = _mm512_fmadd_ps(beta, widened(_mm512_extracti64x4_epi64(before, 1)), high);
    }
    _mm512_mask_storeu_epi16(into, there, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

/** Sums up to 32 rows along up to 32 columns of a panel. */
template <int kRowTiles, int kColumnTiles>
void multiply_block(const LeftRows& left, int64_t rows, const char* right, int64_t vectors, const Sums& to) {
  const int64_t right_stride = vectors * kRowBytes, right_step = vectors * kTileBytes;
  __asm__ volatile("" : : : "memory"); // gcc's intrinsics do not say that loading tiles reads memory
  begin_sums<kRowTiles, kColumnTiles>(to.held, to.first);
  const char* from = left.start;
  for (int64_t step = 0; step < left.whole; ++step, from += left.step_bytes, right += right_step)
    add_step<kRowTiles, kColumnTiles>(from, left.tile_bytes, left.row_bytes, right, right_stride);
  if (left.rest) add_step<kRowTiles, kColumnTiles>(left.rest, kTileBytes, kRowBytes, right, right_stride);
  if (!to.last) {
    hold_sums<kRowTiles, kColumnTiles>(to.held, kPanelColumns);
    return;
  }
  alignas(64) float sums[2 * kTileRows * 2 * kLanes];
  hold_sums<kRowTiles, kColumnTiles>(sums, 2 * kLanes);
  write_sums(sums, rows, smaller(to.columns, kColumnTiles * kLanes), to);
}

template <int kRowTiles>
void multiply_rows(const LeftRows& left, int64_t rows, const Panel& right, Sums to) {
  const char* start = right.start;
  for (int64_t vector = 0; vector < right.vectors; vector += 2) {
    if (vector + 1 < right.vectors) multiply_block<kRowTiles, 2>(left, rows, start, right.vectors, to);
    else multiply_block<kRowTiles, 1>(left, rows, start, right.vectors, to);
    start += 2 * kRowBytes;
    to.into += 2 * kLanes;
    to.held += 2 * kLanes;
    to.columns -= 2 * kLanes;
  }
}

/** Computes the sums of some rows along a panel. */
void multiply_along(LeftRows left, int64_t rows, const Panel& right, int64_t, Sums to) {
  while (rows > 0) {
    const int64_t tiles = rows >= 2 * kTileRows ? 2 : 1, together = smaller(rows, tiles * kTileRows);
    if (tiles == 2) {
      multiply_rows<2>(left, together, right, to);
    } else {
      if (together < kTileRows) configure(together);
      multiply_rows<1>(left, together, right, to);
      if (together < kTileRows) configure(kTileRows);
    }
    rows -= together;
    left.start += tiles * left.tile_bytes;
    if (left.rest) left.rest += tiles * kTileBytes;
    to.into += together * to.row_stride;
    to.held += together * kPanelColumns;
  }
}

} // namespace
} // namespace lorafit
