#include "nvrtc.h"

#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <filesystem>
#include <map>
#include <memory>

#include "cuda.h"
#include "handles.h"

namespace lorafit {
namespace {

/** A shared library, never closed. */
class Library {
 public:
  explicit Library(const std::string& path) : path_(path), handle_(dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
    TORCH_CHECK(handle_, path, " can't be opened: ", dlerror());
  }

  template <typename Function>
  void find(const char* name, Function& function) const {
    function = reinterpret_cast<Function>(dlsym(handle_, name));
    TORCH_CHECK(function, path_, " has no ", name);
  }

 private:
  const std::string path_;
  void* const handle_;
};

/** The functions of nvrtc.h in use. A result of 0 is success; a program is an opaque pointer. */
struct Nvrtc {
  explicit Nvrtc(const Library& library) {
    library.find("nvrtcGetErrorString", error_string);
    library.find("nvrtcVersion", version);
    library.find("nvrtcGetNumSupportedArchs", architecture_count);
    library.find("nvrtcGetSupportedArchs", architectures);
    library.find("nvrtcCreateProgram", create);
    library.find("nvrtcDestroyProgram", destroy);
    library.find("nvrtcCompileProgram", compile);
    library.find("nvrtcGetProgramLogSize", log_size);
    library.find("nvrtcGetProgramLog", log);
    library.find("nvrtcGetCUBINSize", code_size);
    library.find("nvrtcGetCUBIN", code);
  }

  void check(int result, const char* doing) const {
    TORCH_CHECK(result == 0, "NVRTC, ", doing, ": ", error_string(result));
  }

  const char* (*error_string)(int);
  int (*version)(int*, int*);
  int (*architecture_count)(int*);
  int (*architectures)(int*);
  int (*create)(void**, const char*, const char*, int, const char* const*, const char* const*);
  int (*destroy)(void**);
  int (*compile)(void*, int, const char* const*);
  int (*log_size)(void*, size_t*);
  int (*log)(void*, char*);
  int (*code_size)(void*, size_t*);
  int (*code)(void*, char*);
};

/**
 * Opens NVRTC's builtins first: NVRTC opens them by their bare name, which the loader finds only if they are
 * open.
 */
void open_builtins(const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  if (folder.empty()) return; // a system library: the loader finds the builtins itself
  std::error_code none;
  for (const auto& entry : std::filesystem::directory_iterator(folder, none)) {
    const std::string name = entry.path().filename();
    const bool alternative = name.find(".alt.") != std::string::npos;
    if (name.rfind("libnvrtc-builtins", 0) == 0 && !alternative)
      dlopen(entry.path().c_str(), RTLD_NOW | RTLD_GLOBAL);
  }
}

const Nvrtc& nvrtc_of(const std::string& path) {
  static auto* opened = new std::map<std::string, std::unique_ptr<Nvrtc>>;
  std::unique_ptr<Nvrtc>& found = (*opened)[path];
  if (!found) {
    open_builtins(path);
    found = std::make_unique<Nvrtc>(Library(path));
  }
  return *found;
}

/**
 * The functions of the driver's cuda.h in use. A device is a number; a module and a function are opaque
 * pointers.
 */
struct Driver {
  explicit Driver(const Library& library) {
    library.find("cuInit", init);
    library.find("cuGetErrorString", error_string);
    library.find("cuDeviceGet", device);
    library.find("cuDeviceGetName", device_name);
    library.find("cuDeviceGetAttribute", device_attribute);
    library.find("cuDeviceTotalMem_v2", device_memory);
    library.find("cuModuleLoadData", load_module);
    library.find("cuModuleGetFunction", module_function);
    library.find("cuLaunchKernel", launch);
    check(init(0), "starting");
  }

  void check(int result, const char* doing) const {
    if (result == 0) return;
    const char* reason = nullptr;
    error_string(result, &reason);
    TORCH_CHECK(false, "CUDA driver, ", doing, ": ", reason ? reason : "unknown error", " (", result, ")");
  }

  int (*init)(unsigned);
  int (*error_string)(int, const char**);
  int (*device)(int*, int);
  int (*device_name)(char*, int, int);
  int (*device_attribute)(int*, int, int);
  int (*device_memory)(size_t*, int);
  int (*load_module)(void**, const void*);
  int (*module_function)(void**, void*, const char*);
  int (*launch)(void*, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void*, void**, void**);
};

const Driver& driver() {
  static const auto* driver = new Driver(Library("libcuda.so.1"));
  return *driver;
}

/** A function of a module, loaded into its device's primary context. */
struct Kernel {
  c10::Device device = c10::kCPU;
  void* function = nullptr;
};

SlotTable<Kernel>& kernels() {
  static auto* table = new SlotTable<Kernel>;
  return *table;
}

std::string log_of(const Nvrtc& nvrtc, void* program) {
  size_t length = 0;
  if (nvrtc.log_size(program, &length) != 0 || length == 0) return "";
  std::string log(length, '\0');
  nvrtc.log(program, log.data());
  return log.c_str();
}

/** An argument of a launch; the driver needs its address. */
union Value {
  void* pointer;
  int64_t whole;
  float number;
};

Value to_value(napi_env env, char kind, napi_value value, c10::Device device) {
  switch (kind) {
    case 't': {
      const at::Tensor& tensor = to_tensor(env, value, "kernel argument");
      TORCH_CHECK(tensor.device() == device, "a kernel of ", device, " got a tensor of ", tensor.device());
      return {.pointer = tensor.mutable_data_ptr()};
    }
    case 'i': return {.whole = to_int(env, value, "kernel argument")};
    case 'f': return {.number = static_cast<float>(to_double(env, value, "kernel argument"))};
    default: TORCH_CHECK(false, "no argument of a kernel is of the kind ", kind);
  }
}

} // namespace

napi_value nvrtc_facts(const Arguments& arguments) {
  const Nvrtc& nvrtc = nvrtc_of(to_string(arguments.env, arguments[0], "library"));
  int major = 0, minor = 0, count = 0;
  nvrtc.check(nvrtc.version(&major, &minor), "its version");
  nvrtc.check(nvrtc.architecture_count(&count), "its architectures");
  std::vector<int> architectures(count);
  nvrtc.check(nvrtc.architectures(architectures.data()), "its architectures");
  std::vector<int64_t> facts{major, minor};
  facts.insert(facts.end(), architectures.begin(), architectures.end());
  return from_ints(arguments.env, facts);
}

napi_value nvrtc_compile(const Arguments& arguments) {
  napi_env env = arguments.env;
  const Nvrtc& nvrtc = nvrtc_of(to_string(env, arguments[0], "library"));
  const std::string source = to_string(env, arguments[1], "source");
  std::vector<std::string> options;
  for (uint32_t i = 0, length = array_length(env, arguments[2], "options"); i < length; ++i) {
    options.push_back(to_string(env, element(env, arguments[2], i), "options"));
  }
  std::vector<const char*> pointers;
  for (const std::string& option : options) pointers.push_back(option.c_str());

  void* made = nullptr;
  nvrtc.check(nvrtc.create(&made, source.c_str(), "kernel.cu", 0, nullptr, nullptr), "taking a program");
  const auto destroy = [&nvrtc](void* program) { nvrtc.destroy(&program); };
  const std::unique_ptr<void, decltype(destroy)> program(made, destroy);
  const int result = nvrtc.compile(made, static_cast<int>(pointers.size()), pointers.data());
  // On one line: JavaScript gets only an error's first line.
  std::string log = result == 0 ? "" : log_of(nvrtc, made);
  for (char& c : log) c = c == '\n' ? ' ' : c;
  TORCH_CHECK(result == 0, "NVRTC, compiling: ", nvrtc.error_string(result), ": ", log);
  size_t length = 0;
  nvrtc.check(nvrtc.code_size(made, &length), "its code");
  std::string code(length, '\0');
  nvrtc.check(nvrtc.code(made, code.data()), "its code");
  return from_bytes(env, code.data(), code.size());
}

napi_value card_facts(const Arguments& arguments) {
  // Values of cuda.h's CUdevice_attribute.
  constexpr int kMultiprocessors = 16, kMajor = 75, kMinor = 76;
  napi_env env = arguments.env;
  const Driver& cuda = driver();
  int device = 0, major = 0, minor = 0, multiprocessors = 0;
  size_t bytes = 0;
  std::array<char, 256> name{};
  cuda.check(cuda.device(&device, static_cast<int>(to_int(env, arguments[0], "index"))), "finding a device");
  cuda.check(cuda.device_name(name.data(), name.size(), device), "a device's name");
  cuda.check(cuda.device_attribute(&major, kMajor, device), "a device's capability");
  cuda.check(cuda.device_attribute(&minor, kMinor, device), "a device's capability");
  cuda.check(cuda.device_attribute(&multiprocessors, kMultiprocessors, device), "a device's multiprocessors");
  cuda.check(cuda.device_memory(&bytes, device), "a device's memory");
  napi_value facts = new_array(env, 4);
  set_element(env, facts, 0, from_string(env, name.data()));
  set_element(env, facts, 1, from_double(env, major * 10 + minor));
  set_element(env, facts, 2, from_double(env, static_cast<double>(bytes)));
  set_element(env, facts, 3, from_double(env, multiprocessors));
  return facts;
}

napi_value load_kernel(const Arguments& arguments) {
  napi_env env = arguments.env;
  ensure_cuda();
  Kernel kernel{to_device(env, arguments[0], "device")};
  const Bytes code = to_bytes(env, arguments[1], "code");
  const std::string entry = to_string(env, arguments[2], "entry");
  const c10::DeviceGuard guard(kernel.device); // makes the device's primary context the current one
  void* module = nullptr;
  driver().check(driver().load_module(&module, code.data), "loading a kernel");
  driver().check(driver().module_function(&kernel.function, module, entry.c_str()), "finding a kernel");
  return from_double(env, kernels().insert(kernel));
}

napi_value launch_kernel(const Arguments& arguments) {
  napi_env env = arguments.env;
  constexpr size_t kFirst = 4;
  const Kernel* kernel = kernels().find(to_double(env, arguments[0], "kernel"));
  TORCH_CHECK(kernel, "no kernel has this number");
  const std::vector<int64_t> blocks = to_ints(env, arguments[1], "blocks");
  TORCH_CHECK(blocks.size() == 3, "blocks have three dimensions");
  const int64_t threads = to_int(env, arguments[2], "threads");
  const std::string kinds = to_string(env, arguments[3], "kinds");
  TORCH_CHECK(arguments.count == kFirst + kinds.size(), "a kernel takes ", kinds.size(), " arguments");
  std::array<Value, Arguments::kMost> values;
  std::array<void*, Arguments::kMost> addresses;
  for (size_t i = 0; i < kinds.size(); ++i) {
    values[i] = to_value(env, kinds[i], arguments[kFirst + i], kernel->device);
    addresses[i] = &values[i];
  }
  const c10::DeviceGuard guard(kernel->device);
  const c10::impl::VirtualGuardImpl impl(kernel->device.type());
  void* stream = impl.getStreamNativeHandle(impl.getStream(kernel->device));
  const auto side = [&blocks](size_t at) { return static_cast<unsigned>(blocks[at]); };
  driver().check(
      driver().launch(
          kernel->function, side(0), side(1), side(2), static_cast<unsigned>(threads), 1, 1, 0, stream,
          addresses.data(), nullptr),
      "launching a kernel");
  return undefined_value(env);
}

} // namespace lorafit
