#include "copies.h"

#include <c10/core/Event.h>
#include <c10/core/GradMode.h>
#include <c10/core/StreamGuard.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "copy_clock.h"
#include "handles.h"
#include "staging.h"
#include "trace.h"

namespace lorafit {
namespace {

constexpr size_t kMemcpyBytes = size_t{4} << 20; // between two checks whether the process is ending

bool on_card(const at::Tensor& tensor) { return !tensor.is_cpu() && !tensor.is_meta(); }

/**
 * A copy that was started. Its tensors are released on the JavaScript thread, so that memory is freed at a
 * known time.
 */
struct Copy {
  Copy(at::Tensor to, at::Tensor from) : to(std::move(to)), from(std::move(from)) {}
  at::Tensor to, from;
  std::optional<c10::Stream> stream;  // on a card: the copy's stream
  std::optional<c10::Event> computed; // on a card: the work queued before the copy
  std::shared_ptr<const c10::Event> copied; // on a card: the copy itself, once it is queued
  bool arrived = false;               // on a card: whether the host has seen `copied`
  bool timed = false;
  std::optional<c10::Event> began;    // on a card, if timed: the copy's turn on its stream
  // Written by the copying thread, under its mutex.
  bool queued = false;
  bool done = false;
  std::exception_ptr error;
  double ms = 0; // on cpu
};

CopyClock& copy_clock() {
  static auto* clock = new CopyClock;
  return *clock;
}

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

c10::Device card_of(const Copy& copy) { return on_card(copy.to) ? copy.to.device() : copy.from.device(); }

c10::Stream computing_stream(c10::Device card) { return c10::impl::VirtualGuardImpl(card.type()).getStream(card); }

/**
 * Returns the stream for a card and direction: a link carries both directions at once. For the JavaScript
 * thread.
 */
c10::Stream copy_stream(const Copy& copy) {
  static auto* streams = new std::map<std::pair<int, bool>, c10::Stream>;
  const c10::Device card = card_of(copy);
  const std::pair<int, bool> key{card.index(), on_card(copy.to)};
  const auto found = streams->find(key);
  if (found != streams->end()) return found->second;
  const c10::impl::VirtualGuardImpl impl(card.type());
  return streams->emplace(key, impl.getStreamFromGlobalPool(card)).first->second;
}

/** Records an event after what is queued of a copy on its stream. */
void record_copied(Copy& copy) {
  if (copy.timed) {
    copy.copied = std::make_shared<c10::Event>(mark(*copy.stream));
    return;
  }
  c10::Event event(copy.stream->device_type());
  event.record(*copy.stream);
  copy.copied = std::make_shared<c10::Event>(std::move(event));
}

/** Makes the copy's stream wait for the work that was queued before the copy. */
void begin_on_stream(Copy& copy) {
  copy.computed->block(*copy.stream);
  if (copy.timed) copy.began.emplace(mark(*copy.stream));
}

/** Asks the kernel to read ahead a mapped file's data in this range; has no effect on other memory. */
void read_ahead(const void* data, size_t length) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t start = reinterpret_cast<uintptr_t>(data) / page * page;
  madvise(reinterpret_cast<void*>(start), reinterpret_cast<uintptr_t>(data) + length - start, MADV_WILLNEED);
}

/** A thread that makes copies in order. It makes no tracked allocation and frees no tensor. */
class CopyThread {
 public:
  void queue(const std::shared_ptr<Copy>& copy) {
    const std::lock_guard lock(mutex_);
    TORCH_CHECK(!stopping_, "no copy can start: the process ends");
    if (on_card(copy->to) && !staging_) staging_.emplace(copy->to.device().type());
    if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
    waiting_.push_back(copy);
    copy->queued = true;
    work_.notify_one();
  }

  /** Blocks until the thread is done with a copy; throws the copy's error. */
  void wait(const Copy& copy) {
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&copy] { return !copy.queued || copy.done; });
    if (copy.error) std::rethrow_exception(copy.error);
  }

  /** Returns whether waiting for a copy would take no time. */
  bool is_done(const Copy& copy) {
    const std::lock_guard lock(mutex_);
    return !copy.queued || copy.done;
  }

  void stop() {
    stopping_ = true;
    {
      const std::lock_guard lock(mutex_); // without the lock, a thread between its check and its sleep would miss the call
      work_.notify_all();
    }
    if (thread_.joinable()) thread_.join();
  }

 private:
  void run() {
    c10::GradMode::set_enabled(false);
    while (const std::shared_ptr<Copy> copy = next()) {
      std::exception_ptr error;
      const double start_ms = now_ms();
      try {
        carry_out(*copy);
      } catch (...) {
        error = std::current_exception();
      }
      const std::lock_guard lock(mutex_);
      copy->error = error;
      copy->ms = now_ms() - start_ms;
      copy->done = true;
      done_.notify_all();
    }
  }

  std::shared_ptr<Copy> next() {
    std::unique_lock lock(mutex_);
    work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
    if (stopping_) return nullptr;
    std::shared_ptr<Copy> copy = std::move(waiting_.front());
    waiting_.pop_front();
    return copy;
  }

  void carry_out(Copy& copy) {
    read_ahead(copy.from.const_data_ptr(), copy.from.nbytes());
    if (on_card(copy.to)) {
      c10::impl::VirtualGuardImpl(copy.to.device().type()).setDevice(copy.to.device()); // sets this thread's card, like use_card
      begin_on_stream(copy);
      try {
        staging_->copy(copy.to, copy.from, *copy.stream, stopping_);
      } catch (...) {
        record_copied(copy); // a part may be under way
        throw;
      }
      return record_copied(copy);
    }
    auto* to = static_cast<char*>(copy.to.mutable_data_ptr());
    const auto* from = static_cast<const char*>(copy.from.const_data_ptr());
    for (size_t at = 0, length = copy.to.nbytes(); at < length; at += kMemcpyBytes) {
      TORCH_CHECK(!stopping_, "the copy was called off: the process ends");
      copy_bytes(to + at, from + at, std::min(kMemcpyBytes, length - at), /*to_card=*/false);
    }
  }

  std::mutex mutex_;
  std::condition_variable work_, done_;
  std::deque<std::shared_ptr<Copy>> waiting_;
  std::atomic<bool> stopping_ = false;
  std::optional<Staging> staging_;
  std::thread thread_;
};

CopyThread& copy_thread() {
  static auto* thread = new CopyThread; // never destroyed: stop_copies_with ends its thread
  return *thread;
}

SlotTable<std::shared_ptr<Copy>>& copies() {
  static auto* table = new SlotTable<std::shared_ptr<Copy>>;
  return *table;
}

void check_copy(const at::Tensor& to, const at::Tensor& from) {
  TORCH_CHECK(
      to.scalar_type() == from.scalar_type() && to.sizes() == from.sizes(), "a copy to ", describe(to), " from ",
      describe(from), ": dtype and shape must be the same");
  TORCH_CHECK(to.is_contiguous() && from.is_contiguous(), "a copy in the background takes contiguous tensors");
  TORCH_CHECK(to.is_meta() || !from.is_meta(), "a meta tensor has no data to copy");
  if (!to.is_cpu() || !from.is_cpu()) return;
  const auto* start = static_cast<const char*>(to.const_data_ptr());
  const auto* other = static_cast<const char*>(from.const_data_ptr());
  TORCH_CHECK(
      start + to.nbytes() <= other || other + from.nbytes() <= start, "the tensors of a copy share memory");
}

void start(const std::shared_ptr<Copy>& copy) {
  const bool to_card = on_card(copy->to), from_card = on_card(copy->from);
  if (copy->to.is_meta() || copy->to.numel() == 0) return;
  if (!to_card && !from_card) return copy_thread().queue(copy);
  const c10::Device card = card_of(*copy);
  // Work queued on the current stream may use either tensor's memory.
  copy->computed.emplace(card.type());
  copy->computed->record(computing_stream(card));
  copy->stream = copy_stream(*copy);
  if (to_card && copy->from.is_cpu() && !copy->from.is_pinned()) return copy_thread().queue(copy);
  begin_on_stream(*copy);
  const c10::StreamGuard guard(*copy->stream);
  copy->to.copy_(copy->from, /*non_blocking=*/true);
  record_copied(*copy);
}

/**
 * A copy that a thread waits for, while the event loop continues. The thread is its own: Node waits for
 * threads of its pool when it exits.
 */
struct Arrival {
  std::shared_ptr<Copy> copy;
  napi_deferred promise = nullptr;
  napi_threadsafe_function told = nullptr;
  bool came = false;

  void wait() noexcept {
    try {
      copy_thread().wait(*copy);
      if (copy->copied) copy->copied->synchronize();
      came = true;
    } catch (...) { // the copy's error reaches whoever calls waitCopy
    }
  }

  /** Settles the promise, on the JavaScript thread. */
  void end(napi_env env) {
    copy->arrived = came;
    napi_value nothing;
    if (napi_get_undefined(env, &nothing) == napi_ok) napi_resolve_deferred(env, promise, nothing);
  }
};

void end_arrival(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Arrival> arrival(static_cast<Arrival*>(data));
  if (env) arrival->end(env); // null if the environment is ending
}

/**
 * Waits for a copy and notifies the JavaScript thread. If the environment has ended meanwhile, the process is
 * ending: nothing is notified or freed.
 */
void await_arrival(Arrival* arrival) {
  const napi_threadsafe_function told = arrival->told;
  arrival->wait();
  if (napi_call_threadsafe_function(told, arrival, napi_tsfn_nonblocking) == napi_ok)
    napi_release_threadsafe_function(told, napi_tsfn_release);
}

} // namespace

napi_value copy_arrival(const Arguments& arguments) {
  napi_env env = arguments.env;
  const auto* found = copies().find(to_double(env, arguments[0], "copy"));
  TORCH_CHECK(found, "the copy was waited for already");
  auto arrival = std::make_unique<Arrival>();
  arrival->copy = *found;
  napi_value promise;
  check(env, napi_create_promise(env, &arrival->promise, &promise));
  check(
      env, napi_create_threadsafe_function(
               env, nullptr, nullptr, from_string(env, "a copy of lorafit"), /*max_queue_size=*/0,
               /*initial_thread_count=*/1, nullptr, nullptr, nullptr, end_arrival, &arrival->told));
  try {
    std::thread(await_arrival, arrival.get()).detach();
    arrival.release();
  } catch (const std::system_error&) { // no thread can start: waitCopy waits for the copy instead
    napi_release_threadsafe_function(arrival->told, napi_tsfn_release);
    arrival->end(env);
  }
  return promise;
}

napi_value start_copy(const Arguments& arguments) {
  const at::Tensor& to = to_tensor(arguments.env, arguments[0], "to");
  const at::Tensor& from = to_tensor(arguments.env, arguments[1], "from");
  check_copy(to, from);
  count_copy(to, from);
  auto copy = std::make_shared<Copy>(to, from);
  copy->timed = copy_clock().running();
  start(copy);
  return from_double(arguments.env, copies().insert(std::move(copy)));
}

napi_value wait_copy(const Arguments& arguments) {
  const double id = to_double(arguments.env, arguments[0], "copy");
  const bool on_host = to_bool(arguments.env, arguments[1], "onHost");
  const auto* found = copies().find(id);
  TORCH_CHECK(found, "the copy was waited for already");
  const std::shared_ptr<Copy> copy = *found;
  copies().erase(id);
  // The caching allocator may reuse the tensors' memory once they are released. The work that gets the memory
  // is queued on the current stream, which waits for the copy first.
  TimedCopy times;
  const auto let_go = [&copy, &times, on_host] {
    if (copy->copied) {
      const c10::Stream computing = computing_stream(copy->stream->device());
      copy->copied->block(computing);
      if (on_host && !copy->arrived) copy->copied->synchronize();
      if (times.came) times.goes_on.emplace(mark(computing));
    }
    copy->to.reset();
    copy->from.reset();
  };
  if (copy->timed && copy->stream) times.came.emplace(mark(computing_stream(copy->stream->device())));
  const double start_ms = now_ms();
  try {
    copy_thread().wait(*copy);
  } catch (...) {
    let_go();
    throw;
  }
  times.waited_ms = now_ms() - start_ms;
  times.copy_ms = copy->ms;
  times.bytes = static_cast<int64_t>(copy->to.nbytes());
  let_go();
  if (copy->timed) {
    times.began = std::move(copy->began);
    times.copied = copy->copied;
    copy_clock().add(std::move(times));
  }
  return undefined_value(arguments.env);
}

napi_value is_copied(const Arguments& arguments) {
  const auto* found = copies().find(to_double(arguments.env, arguments[0], "copy"));
  TORCH_CHECK(found, "the copy was waited for already");
  const Copy& copy = **found;
  const bool is_done = copy_thread().is_done(copy) && (!copy.copied || copy.copied->query());
  return from_bool(arguments.env, is_done);
}

napi_value let_go_of_source(const Arguments& arguments) {
  const auto* found = copies().find(to_double(arguments.env, arguments[0], "copy"));
  TORCH_CHECK(found, "the copy was waited for already");
  Copy& copy = **found;
  copy_thread().wait(copy);
  if (copy.copied) copy.copied->block(computing_stream(copy.stream->device()));
  copy.from.reset();
  return undefined_value(arguments.env);
}

napi_value pending_copies(const Arguments& arguments) {
  return from_double(arguments.env, static_cast<double>(copies().live()));
}

napi_value staging_bytes(const Arguments& arguments) {
  return from_double(arguments.env, static_cast<double>(Staging::kAllBytes));
}

napi_value time_copies(const Arguments& arguments) {
  copy_clock().run(to_bool(arguments.env, arguments[0], "on"));
  return undefined_value(arguments.env);
}

napi_value take_copy_times(const Arguments& arguments) {
  napi_value sums = new_array(arguments.env, 4);
  uint32_t at = 0;
  for (const double sum : copy_clock().take()) set_element(arguments.env, sums, at++, from_double(arguments.env, sum));
  return sums;
}

void stop_copies_with(napi_env env) {
  check(env, napi_add_env_cleanup_hook(env, [](void*) { copy_thread().stop(); }, nullptr));
}

} // namespace lorafit
