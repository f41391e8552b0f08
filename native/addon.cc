// The export table, and the guard that turns C++ exceptions into JavaScript errors.
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>
#include <pthread.h>
#include <time.h>

#include <cstring>
#include <thread>

#include "allocators.h"
#include "autograd.h"
#include "card_memory.h"
#include "collectives.h"
#include "copies.h"
#include "cpu_kernels.h"
#include "cuda.h"
#include "dispatch.h"
#include "jobs.h"
#include "meeting.h"
#include "memory.h"
#include "meta_kernels.h"
#include "moves.h"
#include "nvrtc.h"
#include "side_stream.h"
#include "tensors.h"
#include "trace.h"
#include "watch.h"

namespace lorafit {
namespace {

/** Constructor of the JavaScript class OutOfMemoryError(requestedBytes, liveBytes, capBytes, device, pool,
 * reason). */
napi_ref out_of_memory_class = nullptr;

void throw_error(
    napi_env env, napi_status (*create)(napi_env, napi_value, napi_value, napi_value*),
    const std::string& text) {
  napi_value error;
  if (create(env, nullptr, from_string(env, text), &error) == napi_ok) napi_throw(env, error);
}

void throw_out_of_memory(napi_env env, const std::string& reason, const std::optional<OutOfPool>& pool) {
  napi_value constructor, instance;
  if (!out_of_memory_class || napi_get_reference_value(env, out_of_memory_class, &constructor) != napi_ok) {
    throw_error(env, napi_create_error, reason);
    return;
  }
  const c10::Device device = pool ? pool->device : c10::Device(c10::kCUDA, 0);
  const std::array<napi_value, 6> arguments{
      from_double(env, pool ? static_cast<double>(pool->requested) : 0),
      from_double(env, pool ? static_cast<double>(pool->live) : 0),
      pool && pool->cap >= 0 ? from_double(env, static_cast<double>(pool->cap)) : undefined_value(env),
      from_double(env, static_cast<int>(device.type()) * 256 + device.index() + 1),
      from_double(env, pool ? static_cast<double>(pool->pool) : 0),
      from_string(env, reason)};
  if (napi_new_instance(env, constructor, arguments.size(), arguments.data(), &instance) == napi_ok)
    napi_throw(env, instance);
}

/**
 * Returns whether a driver or a library was refused a card's memory. Refusals of the allocator have a class
 * of their own.
 */
bool tells_of_memory(const std::string& text) {
  static constexpr std::array kSigns{
      "CUDA error: out of memory", "CUDA_ERROR_OUT_OF_MEMORY", "cudaErrorMemoryAllocation",
      "CUDA driver, loading a kernel: out of memory", "_STATUS_ALLOC_FAILED", "_DEVICE_ALLOCATION_FAILED"};
  return std::any_of(kSigns.begin(), kSigns.end(), [&](const char* sign) {
    return text.find(sign) != std::string::npos;
  });
}

void throw_fault(napi_env env, const std::string& text) {
  if (tells_of_memory(text)) throw_out_of_memory(env, text, std::nullopt);
  else throw_error(env, napi_create_error, text);
}

/** Runs an exported function and turns any C++ exception into a JavaScript exception. */
template <napi_value (*Body)(const Arguments&)>
napi_value guarded(napi_env env, napi_callback_info info) {
  const char* name = "";
  try {
    const Arguments arguments(env, info);
    name = arguments.name();
    count_call();
    return Body(arguments);
  } catch (const PendingException&) {
  } catch (const OperatorError& error) {
    throw_error(env, napi_create_type_error, error.what());
  } catch (const ArgumentError& error) {
    throw_error(env, napi_create_type_error, std::string(name) + ": " + error.what());
  } catch (const c10::OutOfMemoryError& error) {
    const auto* ours = dynamic_cast<const OutOfPool*>(&error);
    throw_out_of_memory(
        env, first_line(error.what_without_backtrace()), ours ? std::optional(*ours) : take_card_refusal());
  } catch (const c10::Error& error) {
    throw_fault(env, first_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    throw_fault(env, first_line(error.what()));
  } catch (...) {
    throw_error(env, napi_create_error, "the engine threw something that is no exception");
  }
  return nullptr;
}

napi_value set_out_of_memory_class(const Arguments& arguments) {
  if (out_of_memory_class) check(arguments.env, napi_delete_reference(arguments.env, out_of_memory_class));
  check(arguments.env, napi_create_reference(arguments.env, arguments[0], 1, &out_of_memory_class));
  return undefined_value(arguments.env);
}

napi_value set_threads(const Arguments& arguments) {
  const int64_t threads = to_int(arguments.env, arguments[0], "threads");
  TORCH_CHECK(threads >= 1 && threads <= 4096, "a number of threads of ", threads);
  at::set_num_threads(static_cast<int>(threads));
  return undefined_value(arguments.env);
}

/** Returns the CPU-time clocks of the calling thread and of the threads that compute with it. */
std::vector<clockid_t> clocks_of_threads() {
  std::vector<clockid_t> clocks(at::get_num_threads(), CLOCK_THREAD_CPUTIME_ID);
  at::parallel_for(0, static_cast<int64_t>(clocks.size()), 1, [&](int64_t begin, int64_t) {
    const int failure = pthread_getcpuclockid(pthread_self(), &clocks[begin]);
    TORCH_CHECK(failure == 0, "no clock of a thread's time of the processor: ", std::strerror(failure));
  });
  return clocks;
}

/** Returns the milliseconds of each clock; empty if a clock's thread has ended. */
std::vector<double> read_clocks(const std::vector<clockid_t>& clocks) {
  std::vector<double> times;
  for (const clockid_t clock : clocks) {
    timespec spent{};
    if (clock_gettime(clock, &spent) != 0) return {};
    times.push_back(1e3 * static_cast<double>(spent.tv_sec) + 1e-6 * static_cast<double>(spent.tv_nsec));
  }
  return times;
}

/** Returns the CPU milliseconds of each computing thread, the calling thread first. */
napi_value processor_times(const Arguments& arguments) {
  thread_local std::vector<clockid_t> clocks;
  std::vector<double> times = read_clocks(clocks);
  if (times.size() != static_cast<size_t>(at::get_num_threads())) {
    clocks = clocks_of_threads();
    times = read_clocks(clocks);
  }
  napi_value result = new_array(arguments.env, times.size());
  for (size_t i = 0; i < times.size(); ++i) set_element(arguments.env, result, i, from_double(arguments.env, times[i]));
  return result;
}

napi_value get_threads(const Arguments& arguments) {
  return from_double(arguments.env, at::get_num_threads());
}

struct Export {
  const char* name;
  napi_callback callback;
};

constexpr Export kExports[] = {
    {"resolve", guarded<resolve_operator>},
    {"schema", guarded<operator_schema>},
    {"call", guarded<call_operator>},
    {"fromBytes", guarded<tensor_from_bytes>},
    {"toBytes", guarded<tensor_to_bytes>},
    {"item", guarded<tensor_item>},
    {"shape", guarded<tensor_shape>},
    {"strides", guarded<tensor_strides>},
    {"dtype", guarded<tensor_dtype>},
    {"device", guarded<tensor_device>},
    {"isContiguous", guarded<tensor_is_contiguous>},
    {"dispose", guarded<dispose_tensor>},
    {"disposeAll", guarded<dispose_tensors>},
    {"liveTensors", guarded<live_tensors>},
    {"mapFile", guarded<map_file>},
    {"mappedLength", guarded<mapped_length>},
    {"mappedBytes", guarded<mapped_bytes>},
    {"mappedTensor", guarded<mapped_tensor>},
    {"unmapFile", guarded<unmap_file>},
    {"startCopy", guarded<start_copy>},
    {"waitCopy", guarded<wait_copy>},
    {"copyArrival", guarded<copy_arrival>},
    {"letGoOfSource", guarded<let_go_of_source>},
    {"isCopied", guarded<is_copied>},
    {"timeCopies", guarded<time_copies>},
    {"takeCopyTimes", guarded<take_copy_times>},
    {"pendingCopies", guarded<pending_copies>},
    {"stagingBytes", guarded<staging_bytes>},
    {"sideStream", guarded<side_stream>},
    {"grad", guarded<gradients>},
    {"gradMode", guarded<set_grad_mode>},
    {"setRequiresGrad", guarded<set_requires_grad>},
    {"requiresGrad", guarded<requires_grad>},
    {"createGenerator", guarded<create_generator>},
    {"generatorState", guarded<generator_state>},
    {"setGeneratorState", guarded<set_generator_state>},
    {"disposeGenerator", guarded<dispose_generator>},
    {"manualSeed", guarded<manual_seed>},
    {"setPool", guarded<set_pool>},
    {"setCategory", guarded<set_category>},
    {"memoryStats", guarded<memory_stats>},
    {"cpuMemory", guarded<cpu_memory>},
    {"resetPeak", guarded<reset_memory_peak>},
    {"setCap", guarded<set_memory_cap>},
    {"failAtAllocation", guarded<inject_failure>},
    {"recordAllocations", guarded<record_memory>},
    {"takeAllocations", guarded<take_memory_record>},
    {"countExposed", guarded<count_exposed>},
    {"countKernel", guarded<count_kernel>},
    {"traceCalls", guarded<trace_calls>},
    {"takeCalls", guarded<take_calls>},
    {"setRepeats", guarded<set_repeats>},
    {"setPlanTarget", guarded<set_plan_target>},
    {"setOutOfMemoryClass", guarded<set_out_of_memory_class>},
    {"setThreads", guarded<set_threads>},
    {"getThreads", guarded<get_threads>},
    {"processorTimes", guarded<processor_times>},
    {"loadCuda", guarded<load_cuda>},
    {"useCard", guarded<use_card>},
    {"synchronize", guarded<synchronize_device>},
    {"emptyCache", guarded<empty_device_cache>},
    {"deviceMemory", guarded<device_memory>},
    {"cardFacts", guarded<card_facts>},
    {"nvrtcFacts", guarded<nvrtc_facts>},
    {"nvrtcCompile", guarded<nvrtc_compile>},
    {"loadKernel", guarded<load_kernel>},
    {"launchKernel", guarded<launch_kernel>},
    {"runLoop", guarded<run_loop>},
    {"loopLevel", guarded<loop_level>},
    {"multipliesBfloat16", guarded<multiplies_bfloat16>},
    {"panelColumns", guarded<panel_columns>},
    {"panelPairs", guarded<panel_pairs>},
    {"openStore", guarded<open_store>},
    {"connectStore", guarded<connect_store>},
    {"storePort", guarded<store_port>},
    {"storeSet", guarded<store_set>},
    {"storeGet", guarded<store_get>},
    {"storeHas", guarded<store_has>},
    {"storeDelete", guarded<store_delete>},
    {"closeStore", guarded<close_store>},
    {"countTurn", guarded<count_turn>},
    {"openGroup", guarded<open_group>},
    {"openCards", guarded<open_cards>},
    {"closeGroup", guarded<close_group>},
    {"startCollective", guarded<start_collective>},
    {"waitCollective", guarded<wait_collective>},
    {"isCollectiveDone", guarded<is_collective_done>},
    {"collectiveArrival", guarded<collective_arrival>},
    {"pendingCollectives", guarded<pending_collectives>},
    {"startWatch", guarded<start_watch>},
    {"failWatch", guarded<fail_watch>},
    {"failNow", guarded<fail_now>},
    {"leaveWatch", guarded<leave_watch>},
    {"lostWords", guarded<lost_words>},
};

} // namespace
} // namespace lorafit

NAPI_MODULE_INIT() {
  static const std::thread::id owner = std::this_thread::get_id();
  if (std::this_thread::get_id() != owner) {
    napi_throw_error(
        env, nullptr,
        "tensors belong to the thread that loaded the engine first; this one can't load it again");
    return nullptr;
  }
  try {
    lorafit::install_allocators();
    lorafit::register_meta_kernels();
    lorafit::stop_copies_with(env);
    lorafit::stop_jobs_with(env);
    lorafit::stop_watches_with(env);
    c10::GradMode::set_enabled(false);
  } catch (const std::exception& error) {
    napi_throw_error(env, nullptr, error.what());
    return nullptr;
  }
  for (const auto& [name, callback] : lorafit::kExports) {
    napi_value function;
    if (napi_create_function(env, name, NAPI_AUTO_LENGTH, callback, const_cast<char*>(name), &function) !=
        napi_ok)
      return nullptr;
    if (napi_set_named_property(env, exports, name, function) != napi_ok) return nullptr;
  }
  return exports;
}
