// Loops of the MLP, of norms and of the loss.
#pragma once

#include "loop_chunks.h"

namespace lorafit {
namespace {

// swiglu(out, gate, up): out = silu(gate) * up
template <typename S>
void swiglu(const LoopValue* v, int64_t begin, int64_t end) {
  S* out = pointer<S>(v[0]) + begin;
  const S *gate = pointer<S>(v[1]) + begin, *up = pointer<S>(v[2]) + begin;
  for_chunks(end - begin, CHUNK {
    float g[kChunk], u[kChunk], s[kChunk];
    load(gate + at, count, g);
    load(up + at, count, u);
    sigmoids(g, count, s);
    for (int i = 0; i < count; ++i) u[i] *= g[i] * s[i];
    store(out + at, count, u);
  });
}

// swiglu_backward(grad, gate, up): overwrites gate and up with their gradients.
template <typename S>
void swiglu_backward(const LoopValue* v, int64_t begin, int64_t end) {
  const S* grad = pointer<S>(v[0]) + begin;
  S *gate = pointer<S>(v[1]) + begin, *up = pointer<S>(v[2]) + begin;
  for_chunks(end - begin, CHUNK {
    float d[kChunk], g[kChunk], u[kChunk], s[kChunk];
    load(grad + at, count, d);
    load(gate + at, count, g);
    load(up + at, count, u);
    sigmoids(g, count, s);
    for (int i = 0; i < count; ++i) {
      const float dUp = d[i] * g[i] * s[i];
      g[i] = d[i] * u[i] * s[i] * (1 + g[i] * (1 - s[i]));
      u[i] = dUp;
    }
    store(gate + at, count, g);
    store(up + at, count, u);
  });
}

/** Returns 1 / sqrt(mean(x^2) + eps) of a row; calls each(at, count, a) with every chunk on the way. */
template <typename S, typename Each>
inline __attribute__((always_inline)) float inverse_rms(const S* x, int64_t columns, float eps, Each each) {
  Lanes squares;
  for_chunks(columns, CHUNK {
    float a[kChunk];
    load(x + at, count, a);
    for (int i = 0; i < count; ++i) squares.at[i] += a[i] * a[i];
    each(at, count, a);
  });
  return 1 / __builtin_sqrtf(squares.sum() / static_cast<float>(columns) + eps);
}

// rms_norm(out, x, weight, eps, columns): out = round(x * r) * weight, r = rsqrt(mean(x^2) + eps)
template <typename S>
void rms_norm(const LoopValue* v, int64_t begin, int64_t end) {
  const S* weight = pointer<S>(v[2]);
  const float eps = v[3].number;
  const int64_t columns = v[4].whole;
  for (int64_t row = begin; row < end; ++row) {
    S* out = pointer<S>(v[0]) + row * columns;
    const S* x = pointer<S>(v[1]) + row * columns;
    const float r = inverse_rms(x, columns, eps, [](int64_t, auto, const float*) {});
    for_chunks(columns, CHUNK {
      float a[kChunk], w[kChunk];
      load(x + at, count, a);
      load(weight + at, count, w);
      for (int i = 0; i < count; ++i) a[i] = rounded<S>(a[i] * r) * w[i];
      store(out + at, count, a);
    });
  }
}

// add_rms_norm_gradient(into, grad, x, weight, eps, columns): into += r * (g - n * mean(g * n)), n = x * r, g
// = grad * weight
template <typename S>
void add_rms_norm_gradient(const LoopValue* v, int64_t begin, int64_t end) {
  const S* weight = pointer<S>(v[3]);
  const float eps = v[4].number;
  const int64_t columns = v[5].whole;
  for (int64_t row = begin; row < end; ++row) {
    S* into = pointer<S>(v[0]) + row * columns;
    const S *grad = pointer<S>(v[1]) + row * columns, *x = pointer<S>(v[2]) + row * columns;
    Lanes products;
    const auto project = [&](int64_t at, auto count, const float* a) __attribute__((always_inline)) {
      float d[kChunk], w[kChunk];
      load(grad + at, count, d);
      load(weight + at, count, w);
      for (int i = 0; i < count; ++i) products.at[i] += a[i] * d[i] * w[i];
    };
    const float r = inverse_rms(x, columns, eps, project);
    const float projection = products.sum() / static_cast<float>(columns) * r * r;
    for_chunks(columns, CHUNK {
      float a[kChunk], d[kChunk], w[kChunk], sum[kChunk];
      load(into + at, count, sum);
      load(x + at, count, a);
      load(grad + at, count, d);
      load(weight + at, count, w);
      for (int i = 0; i < count; ++i) sum[i] += r * (d[i] * w[i] - a[i] * projection);
      store(into + at, count, sum);
    });
  }
}

/** Returns the sum of e^(x - most) over a row. */
template <typename S>
inline float sum_of_exps(const S* row, int64_t columns, float most) {
  Lanes sums;
  for_chunks(columns, CHUNK {
    float a[kChunk];
    load(row + at, count, a);
    for (int i = 0; i < count; ++i) sums.at[i] += exp_of(a[i] - most);
  });
  return sums.sum();
}

// softmax_gradient(logits, targets, losses, scale, columns): writes losses, and overwrites logits with scale
// * (softmax - onehot).
template <typename S>
void softmax_gradient(const LoopValue* v, int64_t begin, int64_t end) {
  const auto* targets = pointer<const int64_t>(v[1]);
  auto* losses = pointer<float>(v[2]);
  const float scale = v[3].number;
  const int64_t columns = v[4].whole;
  for (int64_t row = begin; row < end; ++row) {
    S* logits = pointer<S>(v[0]) + row * columns;
    const float wanted = widen(logits[targets[row]]);
    const float most = largest(logits, columns);
    const float sum = sum_of_exps(logits, columns, most);
    losses[row] = log_of(sum) + most - wanted;
    const float factor = scale / sum;
    for_chunks(columns, CHUNK {
      float a[kChunk];
      load(logits + at, count, a);
      for (int i = 0; i < count; ++i) a[i] = exp_of(a[i] - most);
      for (int i = 0; i < count; ++i) a[i] *= factor;
      store(logits + at, count, a);
    });
    narrow(exp_of(wanted - most) * factor - scale, logits[targets[row]]);
  }
}

} // namespace
} // namespace lorafit
