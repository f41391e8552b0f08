// The update of AdamW.
#pragma once

#include "loop_chunks.h"

namespace lorafit {
namespace {

// adamw(value, gradient, mean, square, scale, decay, meanRate, squareKeep, squareRate, rootFactor, epsilon,
// stepSize): updates value, mean and square, and zeroes gradients of any precision. If the scale is not
// finite, it only zeroes the gradients.
template <typename S>
void adamw(const LoopValue* v, int64_t begin, int64_t end) {
  float *value = pointer<float>(v[0]) + begin, *mean = pointer<float>(v[2]) + begin, *square = pointer<float>(v[3]) + begin;
  S* gradient = pointer<S>(v[1]) + begin;
  const float scale = *pointer<float>(v[4]);
  const float decay = v[5].number, meanRate = v[6].number, squareKeep = v[7].number, squareRate = v[8].number;
  const float rootFactor = v[9].number, epsilon = v[10].number, stepSize = v[11].number;
  const bool is_open = scale - scale == 0;
  for_chunks(end - begin, CHUNK {
    float g[kChunk], x[kChunk], m[kChunk], s[kChunk];
    load(gradient + at, count, g);
    if (is_open) {
      load(value + at, count, x);
      load(mean + at, count, m);
      load(square + at, count, s);
      for (int i = 0; i < count; ++i) {
        g[i] *= scale;
        m[i] += meanRate * (g[i] - m[i]);
        s[i] = s[i] * squareKeep + squareRate * g[i] * g[i];
        x[i] = x[i] * decay - stepSize * m[i] / (__builtin_sqrtf(s[i]) * rootFactor + epsilon);
      }
      store(value + at, count, x);
      store(mean + at, count, m);
      store(square + at, count, s);
    }
    for (int i = 0; i < count; ++i) g[i] = 0;
    store(gradient + at, count, g);
  });
}

} // namespace
} // namespace lorafit
