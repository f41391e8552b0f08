// Loops of attention other than products: softmax, copies and rotary positions.
#pragma once

#include "loop_chunks.h"

namespace lorafit {
namespace {

// causal_softmax(scores, scale, columns, heads, start): row r sees start + r / heads + 1 columns. Writes
// softmax(scale * scores) over these columns, and zero beyond.
template <typename S>
void causal_softmax(const LoopValue* v, int64_t begin, int64_t end) {
  constexpr int64_t kHeld = 128 * kChunk; // exponentials of a row, kept until their sum is known; those beyond are computed twice
  float held[kHeld];
  const float scale = v[1].number;
  const int64_t columns = v[2].whole, heads = v[3].whole, start = v[4].whole;
  for (int64_t row = begin; row < end; ++row) {
    S* scores = pointer<S>(v[0]) + row * columns;
    const int64_t seen = start + row / heads + 1;
    const float most = largest(scores, seen);
    Lanes sums;
    for_chunks(seen, CHUNK {
      float a[kChunk];
      load(scores + at, count, a);
      for (int i = 0; i < count; ++i) a[i] = exp_of(scale * (a[i] - most));
      for (int i = 0; i < count; ++i) sums.at[i] += a[i];
      if (at < kHeld) store(held + at, count, a);
    });
    const float factor = 1 / sums.sum();
    for_chunks(seen, CHUNK {
      float a[kChunk];
      load(at < kHeld ? held + at : held, count, a);
      if (at >= kHeld) {
        load(scores + at, count, a);
        for (int i = 0; i < count; ++i) a[i] = exp_of(scale * (a[i] - most));
      }
      for (int i = 0; i < count; ++i) a[i] *= factor;
      store(scores + at, count, a);
    });
    for (int64_t at = seen; at < columns; ++at) narrow(0, scores[at]);
  }
}

// softmax_backward(grad, weights, scale, columns): overwrites grad with the scores' gradient, scale * weights
// * (grad - sum(grad * weights)).
template <typename S>
void softmax_backward(const LoopValue* v, int64_t begin, int64_t end) {
  const float scale = v[2].number;
  const int64_t columns = v[3].whole;
  for (int64_t row = begin; row < end; ++row) {
    S* grad = pointer<S>(v[0]) + row * columns;
    const S* weights = pointer<S>(v[1]) + row * columns;
    Lanes products;
    for_chunks(columns, CHUNK {
      float d[kChunk], w[kChunk];
      load(grad + at, count, d);
      load(weights + at, count, w);
      for (int i = 0; i < count; ++i) products.at[i] += d[i] * w[i];
    });
    const float mean = products.sum();
    for_chunks(columns, CHUNK {
      float d[kChunk], w[kChunk];
      load(grad + at, count, d);
      load(weights + at, count, w);
      for (int i = 0; i < count; ++i) d[i] = scale * w[i] * (d[i] - mean);
      store(grad + at, count, d);
    });
  }
}

// add_wide(x, into): into, float, += x
template <typename S>
void add_wide(const LoopValue* v, int64_t begin, int64_t end) {
  const S* x = pointer<S>(v[0]) + begin;
  float* into = pointer<float>(v[1]) + begin;
  for_chunks(end - begin, CHUNK {
    float a[kChunk], sum[kChunk];
    load(x + at, count, a);
    load(into + at, count, sum);
    for (int i = 0; i < count; ++i) sum[i] += a[i];
    store(into + at, count, sum);
  });
}

// gather_rows(out, from, columns, stride): copies rows that are `stride` elements apart into contiguous rows.
template <typename S>
void gather_rows(const LoopValue* v, int64_t begin, int64_t end) {
  const int64_t columns = v[2].whole, stride = v[3].whole;
  for (int64_t row = begin; row < end; ++row)
    __builtin_memcpy(pointer<S>(v[0]) + row * columns, pointer<S>(v[1]) + row * stride, columns * sizeof(S));
}

/** Rotates pairs (i, i + half) of a head by a row's angle; direction -1: by the negative angle. */
template <typename S>
inline void rotate(const S* from, S* to, const S* cos, const S* sin, int64_t half, float direction) {
  for_chunks(half, CHUNK {
    float a[kChunk], b[kChunk], c[kChunk], s[kChunk], first[kChunk], second[kChunk];
    load(from + at, count, a);
    load(from + half + at, count, b);
    load(cos + at, count, c);
    load(sin + at, count, s);
    for (int i = 0; i < count; ++i) {
      first[i] = a[i] * c[i] - direction * b[i] * s[i];
      second[i] = b[i] * c[i] + direction * a[i] * s[i];
    }
    store(to + at, count, first);
    store(to + half + at, count, second);
  });
}

// rope_unpack and rope_pack(u, cos, sin, query, key, value, groups, heads, queries, half, strides of query,
// key and value from row to row and from group to group): rotate between u, (rows, groups, heads, 2 half),
// and the others. The first heads of u are queries; then there may be a key and a value. Unit: a row.
template <typename S, bool kPacks>
void rope(const LoopValue* v, int64_t begin, int64_t end) {
  const int64_t groups = v[6].whole, heads = v[7].whole, queries = v[8].whole, half = v[9].whole, width = 2 * half;
  for (int64_t row = begin; row < end; ++row) {
    const S *cos = pointer<S>(v[1]) + row * half, *sin = pointer<S>(v[2]) + row * half;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t head = 0; head < heads; ++head) {
        S* inside = pointer<S>(v[0]) + ((row * groups + group) * heads + head) * width;
        const int64_t kind = head < queries ? 0 : head - queries + 1; // query, key, value
        S* outside = pointer<S>(v[3 + kind]) + row * v[10 + 2 * kind].whole + group * v[11 + 2 * kind].whole +
                     (kind == 0 ? head * width : 0);
        S *from = kPacks ? outside : inside, *to = kPacks ? inside : outside;
        if (kind < 2) {
          rotate<S>(from, to, cos, sin, half, kPacks ? -1.0f : 1.0f);
        } else if (from != to) {
          for (int64_t i = 0; i < width; ++i) to[i] = from[i];
        }
      }
    }
  }
}

template <typename S>
void rope_unpack(const LoopValue* v, int64_t begin, int64_t end) {
  rope<S, false>(v, begin, end);
}

template <typename S>
void rope_pack(const LoopValue* v, int64_t begin, int64_t end) {
  rope<S, true>(v, begin, end);
}

} // namespace
} // namespace lorafit
