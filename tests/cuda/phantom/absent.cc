// What every function says that the phantom card has not: CUDA's libraries' "not supported", whichever of them is asked.
#include <cstdio>
#include <cstdlib>

extern "C" int phantom_absent(const char* name) {
  if (std::getenv("PHANTOM_ABSENT")) std::fprintf(stderr, "phantom: %s was called\n", name);
  constexpr int kNotSupported = 801;
  return kNotSupported;
}
