#include "cpu_kernels.h"

#include <ATen/Parallel.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "cpu_loops.h"
#include "product_loops.h"

namespace lorafit {
namespace {

struct CpuKernel {
  const char* entry;
  const char* kinds;
  /** Elements of the first tensor per unit of the loop's work. */
  int64_t (*elements)(const LoopValue* values);
};

/** Elements per thread that make waking the thread worthwhile: 10 to 30 us of work. */
constexpr int64_t kElementsOfThread = 65536;

/** Makes a row the unit; the argument with this number is the row's length. */
template <size_t Columns>
int64_t row(const LoopValue* values) {
  return values[Columns].whole;
}

int64_t one_element(const LoopValue*) { return 1; }

/**
 * Makes a panel the unit: its columns times the steps in the argument with this number, rounded up to whole
 * pairs of a panel.
 */
template <size_t Inner>
int64_t panel_of(const LoopValue* values) {
  const int64_t together = 2 * product_loops()->panel_pairs;
  return (values[Inner].whole + together - 1) / together * together * kPanelColumns;
}

/**
 * Makes all heads of a row the unit: arguments 6, 7 and 9 are groups, heads per group and half the features
 * per head.
 */
int64_t heads(const LoopValue* values) { return values[6].whole * values[7].whole * 2 * values[9].whole; }

constexpr CpuKernel kKernels[] = {
    {"swiglu", "ttt", one_element},
    {"swiglu_backward", "ttt", one_element},
    {"rms_norm", "tttfi", row<4>},
    {"add_rms_norm_gradient", "ttttfi", row<5>},
    {"softmax_gradient", "tttfi", row<4>},
    {"adamw", "tttttfffffff", one_element},
    {"dropped", "ttiiiiiiiif", row<4>},
    {"add_dropped", "ttiiiiiiiif", row<4>},
    {"causal_softmax", "tfiii", row<2>},
    {"softmax_backward", "ttfi", row<3>},
    {"add_wide", "tt", one_element},
    {"gather_rows", "ttii", row<2>},
    {"rope_unpack", "ttttttiiiiiiiiii", heads},
    {"rope_pack", "ttttttiiiiiiiiii", heads},
    {"dequantize_nf4", "tttttfiiii", row<9>},
    {"dequantize_int8", "tttfii", row<5>},
    {"pack_columns", "ttiii", panel_of<3>},
    {"pack_pairs", "ttiii", panel_of<2>},
    {"causal_tile", "tttttiiiiif", row<5>},
    {"causal_tile_backward", "ttttttttiiiiif", row<8>},
};

struct Level {
  const char* name;
  const NamedLoop* loops;
  /** Null if libtorch multiplies. */
  const ProductLoops* products;
  const NamedLoop* attention;
};

/** Asks Linux for the matrix unit, which each process must before it uses the unit. */
[[maybe_unused]] bool is_lent_matrix_unit() {
#ifdef SYS_arch_prctl
  constexpr int kRequestPermission = 0x1023, kTileData = 18; // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

/** Returns the levels that the processor has, the best last. */
const std::vector<Level>& levels() {
  static const std::vector<Level> all = [] {
    std::vector<Level> found{{"baseline", loops_baseline(), nullptr, nullptr}};
#ifdef LOOPS_BY_LEVEL
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
    if (avx2) found.push_back({"avx2", loops_avx2(), nullptr, nullptr});
    if (avx512) found.push_back({"avx512", loops_avx512(), nullptr, nullptr});
#ifdef PRODUCT_LOOPS
    const bool pairs = avx512 && __builtin_cpu_supports("avx512bf16");
    if (pairs) found.push_back({"avx512bf16", loops_avx512(), &products_avx512bf16(), attention_avx512bf16()});
    if (pairs && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && is_lent_matrix_unit())
      found.push_back({"amx", loops_avx512(), &products_amx(), attention_amx()});
#endif
#endif
    return found;
  }();
  return all;
}

const Level* find_level(const std::string& name) {
  const auto found =
      std::find_if(levels().begin(), levels().end(), [&](const Level& each) { return name == each.name; });
  return found == levels().end() ? nullptr : &*found;
}

/** Returns the level in use. At first: LORAFIT_CPU_LEVEL if the processor has it, otherwise the best. */
const Level*& level() {
  static const Level* current = [] {
    const char* wanted = std::getenv("LORAFIT_CPU_LEVEL");
    const Level* found = wanted ? find_level(wanted) : nullptr;
    return found ? found : &levels().back();
  }();
  return current;
}

const CpuKernel& kernel_of(const std::string& entry) {
  for (const CpuKernel& kernel : kKernels) {
    if (entry == kernel.entry) return kernel;
  }
  TORCH_CHECK(false, "no kernel of the CPU is called ", entry);
}

Loop loop_of(const std::string& entry, at::ScalarType dtype, const NamedLoop* loops) {
  for (const NamedLoop* loop = loops; loop->entry; ++loop) {
    if (entry != loop->entry) continue;
    if (dtype == at::kBFloat16) return loop->of_bfloat16;
    if (dtype == at::kHalf) return loop->of_float16;
    if (dtype == at::kFloat) return loop->of_float32;
  }
  return nullptr;
}

Loop loop_of(const std::string& entry, at::ScalarType dtype) {
  Loop loop = loop_of(entry, dtype, level()->loops);
  if (!loop && level()->attention) loop = loop_of(entry, dtype, level()->attention);
  TORCH_CHECK(loop, entry, " has no scalars of ", dtype, " on this processor");
  return loop;
}

const at::Tensor& cpu_tensor(napi_env env, napi_value value) {
  const at::Tensor& tensor = to_tensor(env, value, "kernel argument");
  TORCH_CHECK(tensor.is_cpu(), "a kernel of the CPU got a tensor of ", tensor.device());
  return tensor;
}

LoopValue to_value(napi_env env, char kind, napi_value value) {
  switch (kind) {
    case 't': return {.pointer = cpu_tensor(env, value).mutable_data_ptr()};
    case 'i': return {.whole = to_int(env, value, "kernel argument")};
    default: return {.number = static_cast<float>(to_double(env, value, "kernel argument"))};
  }
}

} // namespace

napi_value run_loop(const Arguments& arguments) {
  napi_env env = arguments.env;
  constexpr size_t kFirst = 3;
  const std::string entry = to_string(env, arguments[0], "entry");
  const CpuKernel& kernel = kernel_of(entry);
  const Loop loop = loop_of(entry, to_dtype(env, arguments[1], "dtype"));
  const std::string kinds = to_string(env, arguments[2], "kinds");
  TORCH_CHECK(kinds == kernel.kinds, entry, " takes ", kernel.kinds, ", got ", kinds);
  TORCH_CHECK(arguments.count == kFirst + kinds.size(), entry, " takes ", kinds.size(), " arguments");
  std::array<LoopValue, Arguments::kMost> values;
  for (size_t i = 0; i < kinds.size(); ++i) values[i] = to_value(env, kinds[i], arguments[kFirst + i]);
  const int64_t numel = cpu_tensor(env, arguments[kFirst]).numel();
  const int64_t elements = std::max<int64_t>(1, kernel.elements(values.data()));
  const int64_t grain = std::max<int64_t>(1, kElementsOfThread / elements);
  at::parallel_for(0, numel / elements, grain, [&](int64_t begin, int64_t end) {
    loop(values.data(), begin, end);
  });
  return undefined_value(env);
}

napi_value loop_level(const Arguments& arguments) {
  const char* before = level()->name;
  if (arguments.count > 0) {
    const std::string wanted = to_string(arguments.env, arguments[0], "level");
    const Level* found = find_level(wanted);
    TORCH_CHECK(found, "this processor has no level ", wanted);
    level() = found;
  }
  return from_string(arguments.env, before);
}

const ProductLoops* product_loops() { return level()->products; }

napi_value multiplies_bfloat16(const Arguments& arguments) {
  return from_bool(arguments.env, product_loops() != nullptr);
}

napi_value panel_columns(const Arguments& arguments) { return from_double(arguments.env, kPanelColumns); }

napi_value panel_pairs(const Arguments& arguments) {
  return from_double(arguments.env, product_loops() ? product_loops()->panel_pairs : 1);
}

} // namespace lorafit
