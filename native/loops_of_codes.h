// Loops that read weights of 4 and 8 bits.
#pragma once

#include "loop_chunks.h"

namespace lorafit {
namespace {

/** The 16 values of NF4. Source: arXiv:2305.14314, appendix E. */
constexpr float kNf4[16] = {
    -1.0f,           -0.696192801f, -0.525073051f, -0.394917488f, -0.284441382f, -0.184773430f,
    -0.0910500363f,  0.0f,          0.0795802996f, 0.160930201f,  0.246112302f,  0.337915242f,
    0.440709829f,    0.562617004f,  0.722956836f,  1.0f};

// dequantize_nf4(out, codes, absmax, table, scales, offset, width, row, column, columns). Unit: a row of out.
template <typename S>
void dequantize_nf4(const LoopValue* v, int64_t begin, int64_t end) {
  const auto *codes = pointer<const uint8_t>(v[1]), *absmax = pointer<const uint8_t>(v[2]);
  const auto *table = pointer<const float>(v[3]), *scales = pointer<const float>(v[4]);
  const float offset = v[5].number;
  const int64_t width = v[6].whole, columns = v[9].whole;
  for (int64_t row = begin; row < end; ++row) {
    S* out = pointer<S>(v[0]) + row * columns;
    const int64_t first = (v[7].whole + row) * width + v[8].whole, last = first + columns;
    for (int64_t number = first; number < last;) {
      const int64_t block = number / 64, stop = (block + 1) * 64 < last ? (block + 1) * 64 : last;
      volatile float magnitude = table[absmax[block]] * scales[block / 256]; // rounded before the sum (no fused multiply-add), as in bitsandbytes
      const float factor = magnitude + offset;
      S values[16];
      for (int i = 0; i < 16; ++i) narrow(kNf4[i] * factor, values[i]);
      for (; number < stop && number % 2 == 1; ++number) out[number - first] = values[codes[number / 2] & 15];
      for (; number + 2 <= stop; number += 2) {
        const uint8_t pair = codes[number / 2];
        out[number - first] = values[pair >> 4];
        out[number - first + 1] = values[pair & 15];
      }
      for (; number < stop; ++number) out[number - first] = values[codes[number / 2] >> 4];
    }
  }
}

// dequantize_int8(out, codes, scales, unit, stride, columns). Unit: a row of out.
template <typename S>
void dequantize_int8(const LoopValue* v, int64_t begin, int64_t end) {
  const auto* scales = pointer<const float>(v[2]);
  const int64_t stride = v[4].whole, columns = v[5].whole;
  for (int64_t row = begin; row < end; ++row) {
    S* out = pointer<S>(v[0]) + row * columns;
    const auto* codes = pointer<const int8_t>(v[1]) + row * stride;
    const float factor = scales[row] * v[3].number;
    for_chunks(columns, CHUNK {
      float a[kChunk];
      for (int i = 0; i < count; ++i) a[i] = codes[at + i];
      for (int i = 0; i < count; ++i) a[i] *= factor;
      store(out + at, count, a);
    });
  }
}

} // namespace
} // namespace lorafit
