// Promises that other threads settle.
#pragma once

#include <functional>

#include "values.h"

namespace lorafit {

/** Makes a promise's value, on the JavaScript thread. */
using Settle = std::function<napi_value(napi_env)>;

/**
 * A promise that any thread settles once; settling deletes it. If the environment has ended meanwhile, nobody
 * is told.
 */
class Promised {
 public:
  /** may_hang: its thread may wait for ever once the group of ranks is lost. */
  static Promised* make(napi_env env, napi_value* promise, bool may_hang);
  void resolve(Settle value);
  void reject(std::exception_ptr error);

 private:
  friend void unref_promises(napi_env env);
  void settle();
  static void end(napi_env env, napi_value, void*, void* data);
  napi_deferred promise_ = nullptr;
  napi_threadsafe_function told_ = nullptr;
  Settle value_;
  std::exception_ptr error_;
  bool may_hang_ = false;
};

/** Lets Node end although promises that may hang are not settled. For the JavaScript thread. */
void unref_promises(napi_env env);

/** Runs `body` on a thread of its own; it returns what makes the promise's value. */
napi_value in_thread(napi_env env, std::function<Settle()> body, bool may_hang = false);

/** Returns the first line of what was thrown. */
std::string words_of(const std::exception_ptr& error);

/** Whether this environment ends: threads that wait must give up. */
bool process_ends();
/** Gives threads of in_thread a moment to end when this environment ends. */
void stop_jobs_with(napi_env env);

} // namespace lorafit
