// Building blocks of the CPU's loops: 16-bit numbers, and chunks of a row as float arrays on the stack.
// Compilers vectorise such arrays, since nothing else can alias them.
//
// No loop includes a library's header. The linker keeps only one copy of an inline function, and that copy
// might be compiled for a newer processor than the one that runs.
#pragma once

#include "cpu_loops.h"

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
  // A product raises the exponent's bias, and so turns subnormal numbers into normal ones.
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
  // Below 2^-14, the sum with 1/2 has the rounded last bits in the right place.
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

/**
 * Returns e^x as 2^n e^f, |f| <= ln(2) / 2, with the Taylor polynomial of e^f: exact to 3e-7. Below -87 it
 * returns e^-87, above 88 e^88. Give it a loop of its own: a compiler that sees what becomes of it works that
 * out for both ends of the range too, in every lane, and subnormal products there take five times as long.
 */
inline float exp_of(float x) {
  constexpr float kShift = 0x1.8p23f; // a sum with it is rounded to a whole number, found in the last bits
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

/** Writes 1 / (1 + e^-x). */
inline __attribute__((always_inline)) void sigmoids(const float* x, int count, float* out) {
  for (int i = 0; i < count; ++i) out[i] = exp_of(-x[i]);
  for (int i = 0; i < count; ++i) out[i] = 1.0f / (1.0f + out[i]);
}

inline float log_of(float x) { return __builtin_logf(x); }

template <typename S>
inline __attribute__((always_inline)) void load(const S* from, int count, float* to) {
  for (int i = 0; i < count; ++i) to[i] = widen(from[i]);
}

template <typename S>
inline __attribute__((always_inline)) void store(S* to, int count, const float* from) {
  for (int i = 0; i < count; ++i) narrow(from[i], to[i]);
}

/** The length of a whole chunk, known to the compiler. */
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

/** Sums of each lane of the chunks. */
struct Lanes {
  float at[kChunk] = {};
  float sum() const {
    float all = 0;
    for (int i = 0; i < kChunk; ++i) all += at[i];
    return all;
  }
};

/** Returns the largest of a row's elements. */
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

template <typename T>
inline T* pointer(const LoopValue& value) {
  return static_cast<T*>(value.pointer);
}

} // namespace
} // namespace lorafit
