// Runs a CUDA kernel on the CPU: the threads of a block are threads, blocks come one after the other. Read before the kernel's
// source, which run.h follows.
#include <barrier>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <thread>
#include <tuple>
#include <vector>

#define __device__
#define __global__
#define __shared__ static

struct uint4 {
  unsigned x, y, z, w;
};
struct Index {
  unsigned x;
};
thread_local Index threadIdx, blockIdx;
constexpr Index blockDim{256};
inline std::barrier<> all_threads(blockDim.x);
inline void __syncthreads() { all_threads.arrive_and_wait(); }

template <typename To, typename From>
To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
inline float __uint_as_float(unsigned bits) { return bits_of<float>(bits); }
inline unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }
inline float __half_bits_to_float(unsigned short bits) { return bits_of<_Float16>(bits); }
inline unsigned short __float_to_half_bits(float x) { return bits_of<unsigned short>(static_cast<_Float16>(x)); }
