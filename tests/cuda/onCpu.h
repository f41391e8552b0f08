// Runs a CUDA kernel on the CPU, block after block. The threads of a block are real threads. With BY_TURNS
// they take turns in one thread, each until its next barrier, which is quicker. Include this file before the
// kernel's source, and run.h after it. It includes few headers, because most of the compile time is theirs.
#include <math.h>
#include <stdint.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>
#include <vector>
#ifdef BY_TURNS
#include <ucontext.h>
#else
#include <barrier>
#include <thread>
#endif

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
#ifdef BY_TURNS
struct Turns {
  static constexpr size_t kStackBytes = 1 << 17;
  struct Turn {
    ucontext_t context;
    char* stack = static_cast<char*>(std::malloc(kStackBytes));
    bool is_done = true;
  };
  std::vector<Turn> turns{blockDim.x};
  ucontext_t between;
  void (*body)();

  static Turns& all();
  static void begin() {
    all().body();
    all().turns[threadIdx.x].is_done = true;
    all().wait(); // never returns
  }
  void wait() { swapcontext(&turns[threadIdx.x].context, &between); }
  /** Gives every thread turns until all have ended. */
  void run() {
    for (Turn& turn : turns) {
      getcontext(&turn.context);
      turn.context.uc_stack = {.ss_sp = turn.stack, .ss_flags = 0, .ss_size = kStackBytes};
      makecontext(&turn.context, begin, 0);
      turn.is_done = false;
    }
    for (bool goes_on = true; goes_on;) {
      goes_on = false;
      for (unsigned number = 0; number < turns.size(); ++number) {
        if (turns[number].is_done) continue;
        threadIdx.x = number;
        swapcontext(&between, &turns[number].context);
        goes_on = true;
      }
    }
  }
};
inline Turns& Turns::all() {
  static Turns turns;
  return turns;
}
inline void __syncthreads() { Turns::all().wait(); }
#else
inline std::barrier<> all_threads(blockDim.x);
inline void __syncthreads() { all_threads.arrive_and_wait(); }
#endif

template <typename To, typename From>
To bits_of(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}
inline float __expf(float x) { return expf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __uint_as_float(unsigned bits) { return bits_of<float>(bits); }
inline unsigned __float_as_uint(float x) { return bits_of<unsigned>(x); }
inline float __half_bits_to_float(unsigned short bits) { return bits_of<_Float16>(bits); }
inline unsigned short __float_to_half_bits(float x) { return bits_of<unsigned short>(static_cast<_Float16>(x)); }
