#include "jobs.h"

#include <c10/util/Exception.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

namespace lorafit {
namespace {

/** Threads of in_thread that run. */
struct Running {
  std::mutex mutex;
  std::condition_variable fewer;
  size_t threads = 0;
  std::atomic<bool> ending = false;
};

Running& running() {
  static auto* all = new Running; // never destroyed: threads may outlive statics
  return *all;
}

/** For the JavaScript thread. */
std::set<Promised*>& unsettled() {
  static auto* all = new std::set<Promised*>;
  return *all;
}

} // namespace

void unref_promises(napi_env env) {
  for (const Promised* promised : unsettled())
    if (promised->may_hang_) napi_unref_threadsafe_function(env, promised->told_);
}

std::string words_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const c10::Error& caught) {
    return first_line(caught.what_without_backtrace());
  } catch (const std::exception& caught) {
    return first_line(caught.what());
  } catch (...) {
    return "the engine threw something that is no exception";
  }
}

Promised* Promised::make(napi_env env, napi_value* promise, bool may_hang) {
  auto made = std::make_unique<Promised>();
  made->may_hang_ = may_hang;
  check(env, napi_create_promise(env, &made->promise_, promise));
  check(
      env, napi_create_threadsafe_function(
               env, nullptr, nullptr, from_string(env, "a promise of lorafit"), /*max_queue_size=*/0,
               /*initial_thread_count=*/1, nullptr, nullptr, nullptr, end, &made->told_));
  unsettled().insert(made.get());
  return made.release();
}

void Promised::resolve(Settle value) {
  value_ = std::move(value);
  settle();
}

void Promised::reject(std::exception_ptr error) {
  error_ = std::move(error);
  settle();
}

void Promised::settle() {
  const napi_threadsafe_function told = told_; // `this` may be gone after the call
  if (napi_call_threadsafe_function(told, this, napi_tsfn_nonblocking) == napi_ok)
    napi_release_threadsafe_function(told, napi_tsfn_release);
}

void Promised::end(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Promised> self(static_cast<Promised*>(data));
  unsettled().erase(self.get());
  if (!env) return; // the environment ends
  if (!self->error_) {
    napi_resolve_deferred(env, self->promise_, self->value_ ? self->value_(env) : undefined_value(env));
    return;
  }
  napi_value error;
  if (napi_create_error(env, nullptr, from_string(env, words_of(self->error_)), &error) == napi_ok)
    napi_reject_deferred(env, self->promise_, error);
}

napi_value in_thread(napi_env env, std::function<Settle()> body, bool may_hang) {
  napi_value promise;
  Promised* job = Promised::make(env, &promise, may_hang);
  {
    const std::lock_guard lock(running().mutex);
    ++running().threads;
  }
  std::thread([job, body = std::move(body)]() mutable {
    try {
      job->resolve(body());
    } catch (...) {
      job->reject(std::current_exception());
    }
    body = nullptr; // what it holds goes before the thread counts as ended
    const std::lock_guard lock(running().mutex);
    --running().threads;
    running().fewer.notify_all();
  }).detach();
  return promise;
}

bool process_ends() { return running().ending; }

void stop_jobs_with(napi_env env) {
  const auto stop = [](void*) {
    running().ending = true;
    std::unique_lock lock(running().mutex);
    running().fewer.wait_for(lock, std::chrono::seconds(2), [] { return running().threads == 0; });
  };
  check(env, napi_add_env_cleanup_hook(env, stop, nullptr));
}

} // namespace lorafit
