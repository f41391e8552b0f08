// The answer of every function that the phantom card lacks: "not supported" in the numbers of CUDA's runtime
// and driver, for all libraries.
#include <cstdio>
#include <cstdlib>

extern "C" int phantom_absent(const char* name) {
  if (std::getenv("PHANTOM_ABSENT")) std::fprintf(stderr, "phantom: %s was called\n", name);
  constexpr int kNotSupported = 801;
  return kNotSupported;
}
