// Loops of the CPU kernels: each reads its elements a chunk at a time into float arrays on the stack, where compilers vectorise them,
// whatever may lie in the same memory. No library's header is included: the linker keeps one copy of an inline function, and that
// might be one compiled for a newer processor than the one at hand.
#include "cpu_loops.h"

#ifndef LOOPS
#define LOOPS loops_baseline
#endif

namespace lorafit {
namespace {

constexpr int kChunk = 64; // elements: four of the widest registers

template <typename To, typename From>
inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

inline float widen(float x) { return x; }
inline float widen(BFloat16 x) { return bits_as<float>(static_cast<uint32_t>(x.bits) << 16); }
inline float widen(Float16 x) {
  // The exponent's bias is raised by a product, which makes normal numbers of subnormal ones as well.
  const float raised = bits_as<float>(static_cast<uint32_t>(x.bits & 0x7fff) << 13) * 0x1p112f;
  const uint32_t infinite = raised >= 65536.0f ? 0x7f800000u : 0;
  return bits_as<float>(bits_as<uint32_t>(raised) | infinite | static_cast<uint32_t>(x.bits & 0x8000) << 16);
}

inline void narrow(float x, float& to) { to = x; }
inline void narrow(float x, BFloat16& to) {
  const uint32_t bits = bits_as<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to.bits = static_cast<uint16_t>(x != x ? 0x7fc0u : rounded);
}
inline void narrow(float x, Float16& to) {
  const uint32_t bits = bits_as<uint32_t>(x), magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // Below 2^-14 the sum with 1/2 has the last bits where they belong, rounded.
  const uint32_t subnormal = bits_as<uint32_t>(bits_as<float>(magnitude) + 0.5f) - bits_as<uint32_t>(0.5f);
  const uint32_t finite = magnitude < (113u << 23) ? subnormal : normal;
  const uint32_t beyond = magnitude > 0x7f800000 ? 0x7e00u : 0x7c00u;
  to.bits = static_cast<uint16_t>((magnitude >= 0x477ff000 ? beyond : finite) | (bits >> 16 & 0x8000));
}

template <typename S>
inline float rounded(float x) {
  S narrowed;
  narrow(x, narrowed);
  return widen(narrowed);
}

/** e^x by 2^n e^f, |f| <= ln(2) / 2, with the Taylor polynomial of e^f: exact to 3e-7; below -87 and above 88 as there. */
inline float exp_of(float x) {
  constexpr float kShift = 0x1.8p23f; // a sum with it is rounded to a whole number, which the last bits show
  const float low = x < -87.0f ? -87.0f : x;
  const float inside = low > 88.0f ? 88.0f : low;
  const float shifted = inside * 1.44269504f + kShift;
  const float whole = shifted - kShift;
  const float f = (inside - whole * 0.693359375f) + whole * 2.12194440e-4f;
  float sum = 1.0f / 720;
  sum = sum * f + 1.0f / 120;
  sum = sum * f + 1.0f / 24;
  sum = sum * f + 1.0f / 6;
  sum = sum * f + 0.5f;
  sum = sum * f + 1.0f;
  sum = sum * f + 1.0f;
  const uint32_t power = (bits_as<uint32_t>(shifted) - bits_as<uint32_t>(kShift) + 127) << 23;
  return sum * bits_as<float>(power);
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exp_of(-x)); }

inline float log_of(float x) { return __builtin_logf(x); }

template <typename S>
inline __attribute__((always_inline)) void load(const S* from, int count, float* to) {
  for (int i = 0; i < count; ++i) to[i] = widen(from[i]);
}

template <typename S>
inline __attribute__((always_inline)) void store(S* to, int count, const float* from) {
  for (int i = 0; i < count; ++i) narrow(from[i], to[i]);
}

/** A chunk's length, known to the compiler. */
struct WholeChunk {
  constexpr operator int() const { return kChunk; }
};

/** Calls body(first element, number of elements) for every chunk of `count`. */
template <typename Body>
inline __attribute__((always_inline)) void for_chunks(int64_t count, Body body) {
  int64_t at = 0;
  for (; at + kChunk <= count; at += kChunk) body(at, WholeChunk());
  if (at < count) body(at, static_cast<int>(count - at));
}

#define CHUNK [&](int64_t at, auto count) __attribute__((always_inline))

/** What the lanes of a chunk added up each for themselves. */
struct Lanes {
  float at[kChunk] = {};
  float sum() const {
    float all = 0;
    for (int i = 0; i < kChunk; ++i) all += at[i];
    return all;
  }
};

template <typename T>
inline T* pointer(const LoopValue& value) {
  return static_cast<T*>(value.pointer);
}

// swiglu(out, gate, up, count): out = silu(gate) * up
template <typename S>
void swiglu(const LoopValue* v, int64_t begin, int64_t end) {
  S* out = pointer<S>(v[0]) + begin;
  const S *gate = pointer<S>(v[1]) + begin, *up = pointer<S>(v[2]) + begin;
  for_chunks(end - begin, CHUNK {
    float g[kChunk], u[kChunk];
    load(gate + at, count, g);
    load(up + at, count, u);
    for (int i = 0; i < count; ++i) u[i] *= g[i] * sigmoid(g[i]);
    store(out + at, count, u);
  });
}

// swiglu_backward(grad, gate, up, count): gate and up become their gradients
template <typename S>
void swiglu_backward(const LoopValue* v, int64_t begin, int64_t end) {
  const S* grad = pointer<S>(v[0]) + begin;
  S *gate = pointer<S>(v[1]) + begin, *up = pointer<S>(v[2]) + begin;
  for_chunks(end - begin, CHUNK {
    float d[kChunk], g[kChunk], u[kChunk];
    load(grad + at, count, d);
    load(gate + at, count, g);
    load(up + at, count, u);
    for (int i = 0; i < count; ++i) {
      const float s = sigmoid(g[i]), dUp = d[i] * g[i] * s;
      g[i] = d[i] * u[i] * s * (1 + g[i] * (1 - s));
      u[i] = dUp;
    }
    store(gate + at, count, g);
    store(up + at, count, u);
  });
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
    Lanes squares;
    for_chunks(columns, CHUNK {
      float a[kChunk];
      load(x + at, count, a);
      for (int i = 0; i < count; ++i) squares.at[i] += a[i] * a[i];
    });
    const float r = 1 / __builtin_sqrtf(squares.sum() / static_cast<float>(columns) + eps);
    for_chunks(columns, CHUNK {
      float a[kChunk], w[kChunk];
      load(x + at, count, a);
      load(weight + at, count, w);
      for (int i = 0; i < count; ++i) a[i] = rounded<S>(a[i] * r) * w[i];
      store(out + at, count, a);
    });
  }
}

// add_rms_norm_gradient(into, grad, x, weight, eps, columns): into += r * (g - n * mean(g * n)), n = x * r, g = grad * weight
template <typename S>
void add_rms_norm_gradient(const LoopValue* v, int64_t begin, int64_t end) {
  const S* weight = pointer<S>(v[3]);
  const float eps = v[4].number;
  const int64_t columns = v[5].whole;
  for (int64_t row = begin; row < end; ++row) {
    S* into = pointer<S>(v[0]) + row * columns;
    const S *grad = pointer<S>(v[1]) + row * columns, *x = pointer<S>(v[2]) + row * columns;
    Lanes squares, products;
    for_chunks(columns, CHUNK {
      float a[kChunk], d[kChunk], w[kChunk];
      load(x + at, count, a);
      load(grad + at, count, d);
      load(weight + at, count, w);
      for (int i = 0; i < count; ++i) squares.at[i] += a[i] * a[i];
      for (int i = 0; i < count; ++i) products.at[i] += a[i] * d[i] * w[i];
    });
    const float r = 1 / __builtin_sqrtf(squares.sum() / static_cast<float>(columns) + eps);
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

/** The largest of a row's elements. */
template <typename S>
inline float largest(const S* row, int64_t columns) {
  float lanes[kChunk];
  for (int i = 0; i < kChunk; ++i) lanes[i] = -__builtin_inff();
  for_chunks(columns, CHUNK {
    float a[kChunk];
    load(row + at, count, a);
    for (int i = 0; i < count; ++i) lanes[i] = a[i] > lanes[i] ? a[i] : lanes[i];
  });
  float most = lanes[0];
  for (int i = 1; i < kChunk; ++i) most = lanes[i] > most ? lanes[i] : most;
  return most;
}

/** The sum of e^(x - most) over a row. */
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

// softmax_gradient(logits, targets, losses, scale, columns): losses, and logits become scale * (softmax - onehot)
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
      for (int i = 0; i < count; ++i) a[i] = exp_of(a[i] - most) * factor;
      store(logits + at, count, a);
    });
    narrow(exp_of(wanted - most) * factor - scale, logits[targets[row]]);
  }
}

// causal_softmax(scores, scale, columns, heads, start): row number r sees start + r / heads + 1 columns; scores become
// softmax(scale * scores) over them, and zero beyond
template <typename S>
void causal_softmax(const LoopValue* v, int64_t begin, int64_t end) {
  constexpr int64_t kHeld = 128 * kChunk; // exponentials of a row that wait for their sum; those beyond are made twice
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

// softmax_backward(grad, weights, scale, columns): grad becomes scale * weights * (grad - sum(grad * weights)), the scores' gradient
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

// gather_rows(out, from, columns, stride): rows that lie `stride` elements apart, side by side
template <typename S>
void gather_rows(const LoopValue* v, int64_t begin, int64_t end) {
  const int64_t columns = v[2].whole, stride = v[3].whole;
  for (int64_t row = begin; row < end; ++row)
    __builtin_memcpy(pointer<S>(v[0]) + row * columns, pointer<S>(v[1]) + row * stride, columns * sizeof(S));
}

/** Rotates pairs (i, i + half) of a head by a row's angle, or by its negative. */
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

// rope_unpack and rope_pack(u, cos, sin, query, key, value, rows, groups, queries, half, strides of query, key and value from row to
// row and from group to group): between u, (rows, groups, queries + 2, 2 half), and the others; a unit is a row
template <typename S, bool kPacks>
void rope(const LoopValue* v, int64_t begin, int64_t end) {
  const int64_t groups = v[7].whole, queries = v[8].whole, half = v[9].whole, width = 2 * half;
  for (int64_t row = begin; row < end; ++row) {
    const S *cos = pointer<S>(v[1]) + row * half, *sin = pointer<S>(v[2]) + row * half;
    for (int64_t group = 0; group < groups; ++group) {
      for (int64_t head = 0; head < queries + 2; ++head) {
        S* inside = pointer<S>(v[0]) + ((row * groups + group) * (queries + 2) + head) * width;
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

/** The 16 values of NF4. Source: arXiv:2305.14314, appendix E. */
constexpr float kNf4[16] = {
    -1.0f,           -0.696192801f, -0.525073051f, -0.394917488f, -0.284441382f, -0.184773430f,
    -0.0910500363f,  0.0f,          0.0795802996f, 0.160930201f,  0.246112302f,  0.337915242f,
    0.440709829f,    0.562617004f,  0.722956836f,  1.0f};

// dequantize_nf4(out, codes, absmax, table, scales, offset, width, row, column, columns, count): a unit is a row of out
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
      volatile float magnitude = table[absmax[block]] * scales[block / 256]; // rounded, not joined with the sum, as bitsandbytes has it
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

// dequantize_int8(out, codes, scales, unit, stride, columns, count): a unit is a row of out
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

template <typename S>
void rope_unpack(const LoopValue* v, int64_t begin, int64_t end) {
  rope<S, false>(v, begin, end);
}

template <typename S>
void rope_pack(const LoopValue* v, int64_t begin, int64_t end) {
  rope<S, true>(v, begin, end);
}

#define NAMED(loop) \
  { #loop, loop<BFloat16>, loop<Float16>, loop<float> }

constexpr NamedLoop kLoops[] = {
    NAMED(swiglu),
    NAMED(swiglu_backward),
    NAMED(rms_norm),
    NAMED(add_rms_norm_gradient),
    NAMED(softmax_gradient),
    NAMED(causal_softmax),
    NAMED(softmax_backward),
    NAMED(add_wide),
    NAMED(gather_rows),
    NAMED(rope_unpack),
    NAMED(rope_pack),
    NAMED(dequantize_nf4),
    NAMED(dequantize_int8),
    {nullptr, nullptr, nullptr, nullptr},
};

} // namespace

const NamedLoop* LOOPS() { return kLoops; }

} // namespace lorafit
