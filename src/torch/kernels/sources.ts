/**
 * CUDA C++ of the fused kernels, without any header. NVRTC compiles it for the card, and a test compiles it
 * as C++ for the CPU.
 * `load` and `store` read and write elements as float, eight at a time if alignment allows it. `scalar` is
 * bfloat16 with SCALAR_BF16, half precision with SCALAR_F16, else float. A kernel may work in place if its
 * twin may.
 */

import { DEQUANTIZE, PRODUCT, ROWS_FP8, TURN } from "./quantizedSources.ts";

const PRELUDE = `
typedef long long int64;
typedef unsigned char byte;

#if defined(SCALAR_BF16)
struct scalar { unsigned short bits; };
__device__ inline float widen(scalar x) { return __uint_as_float((unsigned)x.bits << 16); }
__device__ inline scalar narrow(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  scalar y;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
  return y;
#else
  unsigned bits = __float_as_uint(x);
  if (x != x) return {0x7fff};
  bits += 0x7fff + (bits >> 16 & 1);
  return {(unsigned short)(bits >> 16)};
#endif
}
#elif defined(SCALAR_F16)
struct scalar { unsigned short bits; };
__device__ inline float widen(scalar x) { return __half_bits_to_float(x.bits); }
__device__ inline scalar narrow(float x) { return {__float_to_half_bits(x)}; }
#else
typedef float scalar;
__device__ inline float widen(scalar x) { return x; }
__device__ inline scalar narrow(float x) { return x; }
#endif

struct alignas(16) Eight { scalar at[8]; };

__device__ inline bool whole(const scalar* at, int64 length) { return length >= 8 && (unsigned long long)at % 16 == 0; }

__device__ inline void load(const scalar* from, int64 length, float* to) {
  if (whole(from, length)) {
    Eight part;
    for (int i = 0; i < (int)(sizeof(Eight) / sizeof(uint4)); ++i) ((uint4*)&part)[i] = ((const uint4*)from)[i];
    for (int i = 0; i < 8; ++i) to[i] = widen(part.at[i]);
  } else {
    for (int i = 0; i < 8; ++i) to[i] = i < length ? widen(from[i]) : 0;
  }
}

__device__ inline void store(scalar* to, int64 length, const float* from) {
  if (whole(to, length)) {
    Eight part;
    for (int i = 0; i < 8; ++i) part.at[i] = narrow(from[i]);
    for (int i = 0; i < (int)(sizeof(Eight) / sizeof(uint4)); ++i) ((uint4*)to)[i] = ((const uint4*)&part)[i];
  } else {
    for (int i = 0; i < 8; ++i) if (i < length) to[i] = narrow(from[i]);
  }
}

__device__ inline int64 thread_number() { return blockIdx.x * (int64)blockDim.x + threadIdx.x; }
`;

/** Converts half precision with the card's own instructions. The CPU test has its own version. */
const HALF_ON_CARD = `
#if defined(SCALAR_F16)
__device__ inline float __half_bits_to_float(unsigned short bits) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
  return x;
}
__device__ inline unsigned short __float_to_half_bits(float x) {
  unsigned short bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
  return bits;
}
#endif
`;

/**
 * Adds up numbers within one block of threads. THREADS is the number of threads in a block of these kernels.
 */
const REDUCTION = `
#define THREADS 256
struct Sums { float first, second; };
__device__ inline Sums block_sums(Sums mine) {
  __shared__ Sums parts[THREADS];
  parts[threadIdx.x] = mine;
  for (int step = THREADS / 2; step > 0; step /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < step) {
      parts[threadIdx.x].first += parts[threadIdx.x + step].first;
      parts[threadIdx.x].second += parts[threadIdx.x + step].second;
    }
  }
  __syncthreads();
  return parts[0];
}
`;

/** out = silu(gate) * up, and the gradients of gate and up. */
const SWIGLU = `
#if defined(SCALAR_BF16) || defined(SCALAR_F16)
__device__ inline float sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); } // exact to a few units in float's last place
#else
__device__ inline float sigmoid(float x) { return 1 / (1 + expf(-x)); }
#endif

extern "C" __global__ void swiglu(scalar* out, const scalar* gate, const scalar* up, int64 count) {
  const int64 at = 8 * thread_number();
  if (at >= count) return;
  float g[8], u[8];
  load(gate + at, count - at, g);
  load(up + at, count - at, u);
  for (int i = 0; i < 8; ++i) u[i] *= g[i] * sigmoid(g[i]);
  store(out + at, count - at, u);
}

extern "C" __global__ void swiglu_backward(const scalar* grad, scalar* gate, scalar* up, int64 count) {
  const int64 at = 8 * thread_number();
  if (at >= count) return;
  float d[8], g[8], u[8];
  load(grad + at, count - at, d);
  load(gate + at, count - at, g);
  load(up + at, count - at, u);
  for (int i = 0; i < 8; ++i) {
    const float s = sigmoid(g[i]);
    const float dGate = d[i] * u[i] * s * (1 + g[i] * (1 - s));
    u[i] = d[i] * g[i] * s;
    g[i] = dGate;
  }
  store(gate + at, count - at, g);
  store(up + at, count - at, u);
}
`;

/**
 * out = n * weight; into += r * (g - n * mean(g * n)). Here n = x * r, r = rsqrt(mean(x^2) + eps) and g =
 * grad * weight. A block computes a row.
 */
const RMS_NORM = `
extern "C" __global__ void rms_norm(scalar* out, const scalar* x, const scalar* weight, float eps, int64 columns) {
  const int64 row = blockIdx.x * columns;
  float v[8], w[8];
  Sums sums = {0, 0};
  for (int64 at = 8 * threadIdx.x; at < columns; at += 8 * THREADS) {
    load(x + row + at, columns - at, v);
    for (int i = 0; i < 8; ++i) sums.first += v[i] * v[i];
  }
  sums = block_sums(sums);
  const float r = 1 / sqrtf(sums.first / columns + eps);
  for (int64 at = 8 * threadIdx.x; at < columns; at += 8 * THREADS) {
    load(x + row + at, columns - at, v);
    load(weight + at, columns - at, w);
    for (int i = 0; i < 8; ++i) v[i] = widen(narrow(v[i] * r)) * w[i];
    store(out + row + at, columns - at, v);
  }
}

extern "C" __global__ void add_rms_norm_gradient(
    scalar* into, const scalar* grad, const scalar* x, const scalar* weight, float eps, int64 columns) {
  const int64 row = blockIdx.x * columns;
  float d[8], v[8], w[8];
  Sums sums = {0, 0};
  for (int64 at = 8 * threadIdx.x; at < columns; at += 8 * THREADS) {
    load(grad + row + at, columns - at, d);
    load(x + row + at, columns - at, v);
    load(weight + at, columns - at, w);
    for (int i = 0; i < 8; ++i) {
      sums.first += v[i] * v[i];
      sums.second += d[i] * w[i] * v[i];
    }
  }
  sums = block_sums(sums);
  const float r = 1 / sqrtf(sums.first / columns + eps);
  const float projection = sums.second / columns * r * r;
  for (int64 at = 8 * threadIdx.x; at < columns; at += 8 * THREADS) {
    float sum[8];
    load(into + row + at, columns - at, sum);
    load(grad + row + at, columns - at, d);
    load(x + row + at, columns - at, v);
    load(weight + at, columns - at, w);
    for (int i = 0; i < 8; ++i) sum[i] += r * (d[i] * w[i] - v[i] * projection);
    store(into + row + at, columns - at, sum);
  }
}
`;

/**
 * Computes each row's loss, and overwrites logits by scale * (softmax - onehot). A block computes a row,
 * which it reads twice.
 */
const SOFTMAX_GRADIENT = `
#define THREADS 256
struct Running { float max, sum; };
__device__ inline Running join(Running a, Running b) {
  const float max = a.max > b.max ? a.max : b.max;
  const float left = a.max == max ? a.sum : a.sum * expf(a.max - max);
  const float right = b.max == max ? b.sum : b.sum * expf(b.max - max);
  return {max, left + right};
}

extern "C" __global__ void softmax_gradient(
    scalar* logits, const int64* targets, float* losses, float scale, int64 columns) {
  __shared__ Running parts[THREADS];
  scalar* row = logits + blockIdx.x * columns;
  const int64 target = targets[blockIdx.x];
  const float wanted = widen(row[target]);
  float l[8];
  Running mine = {-3.402823466e38f, 0};
  for (int64 at = 8 * threadIdx.x; at < columns; at += 8 * THREADS) {
    load(row + at, columns - at, l);
    Running eight = {l[0], 0};
    for (int i = 1; i < 8; ++i) if (at + i < columns && l[i] > eight.max) eight.max = l[i];
    for (int i = 0; i < 8; ++i) if (at + i < columns) eight.sum += expf(l[i] - eight.max);
    mine = join(mine, eight);
  }
  parts[threadIdx.x] = mine;
  for (int step = THREADS / 2; step > 0; step /= 2) {
    __syncthreads();
    if ((int)threadIdx.x < step) parts[threadIdx.x] = join(parts[threadIdx.x], parts[threadIdx.x + step]);
  }
  __syncthreads();
  const Running all = parts[0];
  if (threadIdx.x == 0) losses[blockIdx.x] = logf(all.sum) + all.max - wanted;
  const float factor = scale / all.sum;
  for (int64 at = 8 * threadIdx.x; at < columns; at += 8 * THREADS) {
    load(row + at, columns - at, l);
    for (int i = 0; i < 8; ++i) l[i] = expf(l[i] - all.max) * factor - (at + i == target ? scale : 0);
    store(row + at, columns - at, l);
  }
}
`;

/**
 * Moves data between u, (T, G, Q+2, D), and query, key and value, whose strides are given in elements,
 * between rows and between groups.
 * Rotates pairs (i, i + D/2) of queries and keys, and copies values. A thread processes eight pairs of one
 * head.
 */
const ROPE = `
struct Place {
  int64 row, group, head, pair;
};
struct Strides {
  int64 row, group;
};
__device__ inline bool place_of(int64 number, int64 rows, int64 groups, int64 heads, int64 half, Place& place) {
  const int64 eights = (half + 7) / 8;
  place.pair = number % eights * 8;
  number /= eights;
  place.head = number % heads;
  number /= heads;
  place.group = number % groups;
  place.row = number / groups;
  return place.row < rows;
}
__device__ inline void rotate(const scalar* from, scalar* to, const scalar* cos, const scalar* sin, Place place,
                              int64 half, float direction) {
  float a[8], b[8], c[8], s[8];
  const int64 at = place.pair, length = half - at, table = place.row * half + at;
  load(from + at, length, a);
  load(from + half + at, length, b);
  load(cos + table, length, c);
  load(sin + table, length, s);
  for (int i = 0; i < 8; ++i) {
    const float first = a[i] * c[i] - direction * b[i] * s[i];
    b[i] = b[i] * c[i] + direction * a[i] * s[i];
    a[i] = first;
  }
  store(to + at, length, a);
  store(to + half + at, length, b);
}
__device__ inline void copy(const scalar* from, scalar* to, int64 at, int64 half) {
  if (from == to) return;
  float a[8];
  load(from + at, half - at, a);
  store(to + at, half - at, a);
  load(from + half + at, half - at, a);
  store(to + half + at, half - at, a);
}
/** Returns the address of a head in query, key or value. */
__device__ inline scalar* outside(Place place, int64 queries, int64 half, scalar* query, scalar* key, scalar* value,
                                  Strides q, Strides k, Strides v) {
  if (place.head < queries) return query + place.row * q.row + place.group * q.group + place.head * 2 * half;
  if (place.head == queries) return key + place.row * k.row + place.group * k.group;
  return value + place.row * v.row + place.group * v.group;
}

extern "C" __global__ void rope_unpack(
    scalar* u, const scalar* cos, const scalar* sin, scalar* query, scalar* key, scalar* value, int64 groups,
    int64 heads, int64 queries, int64 half, int64 qRow, int64 qGroup, int64 kRow, int64 kGroup, int64 vRow,
    int64 vGroup, int64 rows) {
  Place place;
  if (!place_of(thread_number(), rows, groups, heads, half, place)) return;
  const scalar* from = u + ((place.row * groups + place.group) * heads + place.head) * 2 * half;
  scalar* to = outside(place, queries, half, query, key, value, {qRow, qGroup}, {kRow, kGroup}, {vRow, vGroup});
  if (place.head > queries) copy(from, to, place.pair, half);
  else rotate(from, to, cos, sin, place, half, 1);
}

extern "C" __global__ void rope_pack(
    scalar* u, const scalar* cos, const scalar* sin, scalar* query, scalar* key, scalar* value, int64 groups,
    int64 heads, int64 queries, int64 half, int64 qRow, int64 qGroup, int64 kRow, int64 kGroup, int64 vRow,
    int64 vGroup, int64 rows) {
  Place place;
  if (!place_of(thread_number(), rows, groups, heads, half, place)) return;
  scalar* to = u + ((place.row * groups + place.group) * heads + place.head) * 2 * half;
  const scalar* from = outside(place, queries, half, query, key, value, {qRow, qGroup}, {kRow, kGroup}, {vRow, vGroup});
  if (place.head > queries) copy(from, to, place.pair, half);
  else rotate(from, to, cos, sin, place, half, -1);
}
`;

/**
 * Draws 16-bit numbers by SplitMix64, four from each word. Row and column alone choose the word. Source:
 * Steele, Lea, Flood, 2014.
 */
const DROPOUT = `
struct Mask { unsigned long long seed; unsigned bound; float scale; int64 row, column; };

__device__ inline Mask mask_of(int64 row, int64 column, int64 low, int64 high, int64 bound, float scale) {
  return {(unsigned long long)high << 32 | (unsigned long long)low, (unsigned)bound, scale, row, column};
}

/** Returns the word with this number of a row. */
__device__ inline unsigned long long word_of(const Mask& mask, int64 row, int64 number) {
  unsigned long long z = mask.seed + 0x9e3779b97f4a7c15ull * (((unsigned long long)row << 32) + number + 1);
  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ z >> 27) * 0x94d049bb133111ebull;
  return z ^ z >> 31;
}

/** Adds eight elements of x to the sums, scaled, except dropped elements. */
__device__ inline void add_kept(const Mask& mask, int64 row, int64 at, const float* x, float* sums) {
  const int64 number = (mask.column + at) >> 2;
  const int begun = 16 * ((mask.column + at) & 3); // bits of the first word that belong to earlier columns
  unsigned long long low = word_of(mask, row, number), high = word_of(mask, row, number + 1);
  if (begun) {
    low = low >> begun | high << 64 - begun;
    high = high >> begun | word_of(mask, row, number + 2) << 64 - begun;
  }
  for (int i = 0; i < 8; ++i) {
    const unsigned drawn = (i < 4 ? low : high) >> 16 * (i % 4) & 65535;
    if (drawn >= mask.bound) sums[i] += x[i] * mask.scale;
  }
}

/** Each thread processes eight columns of a row. */
__device__ inline void drop(
    scalar* out, const scalar* x, int64 outStride, int64 xStride, int64 columns, const Mask& mask, int64 rows, bool add) {
  const int64 parts = (columns + 7) / 8, row = thread_number() / parts, at = thread_number() % parts * 8;
  if (row >= rows) return;
  float v[8], sums[8] = {};
  scalar* to = out + row * outStride + at;
  load(x + row * xStride + at, columns - at, v);
  if (add) load(to, columns - at, sums);
  add_kept(mask, mask.row + row, at, v, sums);
  store(to, columns - at, sums);
}

extern "C" __global__ void dropped(
    scalar* out, const scalar* x, int64 outStride, int64 xStride, int64 columns, int64 row, int64 column, int64 low,
    int64 high, int64 bound, float scale, int64 rows) {
  drop(out, x, outStride, xStride, columns, mask_of(row, column, low, high, bound, scale), rows, false);
}

extern "C" __global__ void add_dropped(
    scalar* out, const scalar* x, int64 outStride, int64 xStride, int64 columns, int64 row, int64 column, int64 low,
    int64 high, int64 bound, float scale, int64 rows) {
  drop(out, x, outStride, xStride, columns, mask_of(row, column, low, high, bound, scale), rows, true);
}
`;

/**
 * Each thread updates one element of a factor. Gradients may be scalars of lower precision. If the scale is
 * not finite, only the gradients change: they become zero.
 */
const ADAMW = `
extern "C" __global__ void adamw(
    float* value, scalar* gradient, float* mean, float* square, const float* scale, float decay, float meanRate,
    float squareKeep, float squareRate, float rootFactor, float epsilon, float stepSize, int64 count) {
  const int64 at = thread_number();
  if (at >= count) return;
  const float factor = *scale, g = widen(gradient[at]) * factor;
  gradient[at] = narrow(0);
  if (factor - factor != 0) return;
  const float m = mean[at] + meanRate * (g - mean[at]);
  const float s = square[at] * squareKeep + squareRate * g * g;
  mean[at] = m;
  square[at] = s;
  value[at] = value[at] * decay - stepSize * m / (sqrtf(s) * rootFactor + epsilon);
}
`;

/** Number of threads in a block, in every launch. */
export const THREADS = 256;

/** Code that a source needs on a card; the CPU test replaces it with its own. */
export const ON_CARD = HALF_ON_CARD;

/** Complete sources by name; each has one or two entries. */
export const SOURCES = {
  swiglu: PRELUDE + SWIGLU,
  rmsNorm: PRELUDE + REDUCTION + RMS_NORM,
  softmaxGradient: PRELUDE + SOFTMAX_GRADIENT,
  rope: PRELUDE + ROPE,
  dropout: PRELUDE + DROPOUT,
  adamW: PRELUDE + ADAMW,
  dequantize: PRELUDE + DEQUANTIZE,
  product: PRELUDE + PRODUCT,
  rowsFp8: PRELUDE + ROWS_FP8,
  turn: PRELUDE + TURN,
} as const;
