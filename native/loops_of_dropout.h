// Loops of dropout. The mask depends only on seed, row and column: 16-bit numbers from SplitMix64, four per
// word.
#pragma once

#include "loop_chunks.h"

namespace lorafit {
namespace {

/** Returns SplitMix64's output for a number of its sequence. Source: Steele, Lea, Flood, 2014. */
inline uint64_t split_mix(uint64_t seed, uint64_t number) {
  uint64_t z = seed + 0x9e3779b97f4a7c15u * (number + 1);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

/**
 * Writes the masked and scaled x into out, or adds it to out; rows begin <= row < end. Arguments as for the
 * kernels (dropout.ts).
 */
template <typename S, bool Adds>
inline void drop_rows(const LoopValue* v, int64_t begin, int64_t end) {
  constexpr int kLanes = 4, kWords = kChunk / kLanes + 1;
  const int64_t outStride = v[2].whole, xStride = v[3].whole, columns = v[4].whole, firstColumn = v[6].whole;
  const uint64_t seed = static_cast<uint64_t>(v[8].whole) << 32 | static_cast<uint64_t>(v[7].whole);
  const auto bound = static_cast<uint16_t>(v[9].whole);
  const float scale = v[10].number;
  const int lane = static_cast<int>(firstColumn % kLanes); // of every chunk's first element
  for (int64_t row = begin; row < end; ++row) {
    S* out = pointer<S>(v[0]) + row * outStride;
    const S* x = pointer<S>(v[1]) + row * xStride;
    const uint64_t rowNumber = static_cast<uint64_t>(v[5].whole + row) << 32;
    for_chunks(columns, CHUNK {
      uint64_t words[kWords];
      const uint64_t first = rowNumber + static_cast<uint64_t>((firstColumn + at) / kLanes);
      for (int i = 0; i < kWords; ++i) words[i] = split_mix(seed, first + static_cast<uint64_t>(i));
      uint16_t numbers[kWords * kLanes];
      __builtin_memcpy(numbers, words, sizeof words);
      float a[kChunk], sum[kChunk] = {};
      load(x + at, count, a);
      if (Adds) load(out + at, count, sum);
      for (int i = 0; i < count; ++i) sum[i] += numbers[lane + i] >= bound ? a[i] * scale : 0.0f;
      store(out + at, count, sum);
    });
  }
}

// dropped(out, x, outStride, xStride, columns, row, column, low and high half of the seed, bound, scale): out
// = mask * x * scale
template <typename S>
void dropped(const LoopValue* v, int64_t begin, int64_t end) {
  drop_rows<S, false>(v, begin, end);
}

// add_dropped: out += mask * x * scale
template <typename S>
void add_dropped(const LoopValue* v, int64_t begin, int64_t end) {
  drop_rows<S, true>(v, begin, end);
}

} // namespace
} // namespace lorafit
