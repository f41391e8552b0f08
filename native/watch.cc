#include "watch.h"

#include <unistd.h>

#include <array>
#include <thread>

#include "group.h"
#include "jobs.h"
#include "moves.h"
#include "rank_report.h"

namespace lorafit {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

constexpr milliseconds kBeat{1000};          // between two reports of a rank
constexpr milliseconds kQuickBeat{200};      // the same, once a connection has failed
constexpr milliseconds kSilence{30'000};     // a rank that has not reported for longer is gone
constexpr milliseconds kLinger{2500};        // for others to read why the group is lost
constexpr milliseconds kShortSilence{5'000}; // the same, once a connection has failed

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

std::string seconds(double ms) { return c10::str(static_cast<int64_t>(ms / 1000), " s"); }

std::vector<uint8_t> bytes_of(const std::string& text) { return {text.begin(), text.end()}; }

class Watch {
 public:
  Watch(const Connection& connection, std::string host, milliseconds limit)
      : meeting_(connection.meeting), store_(connect_again(connection).store), host_(std::move(host)),
        limit_(limit), first_host_(connection.host) {
    report(); // so that every rank that has come can be read
    thread_ = std::thread([this] { run(); });
    guard_ = std::thread([this] { guard(); });
  }

  /** Ends the threads. A thread that waits for a store that answers no more is left alone. */
  static void end(std::shared_ptr<Watch> watch) {
    watch->stopping_ = true;
    watch->wake();
    watch->guard_.join();
    const auto patience = Clock::now() + milliseconds(2000);
    while (!watch->ended_ && Clock::now() < patience) std::this_thread::sleep_for(milliseconds(5));
    if (watch->ended_) {
      watch->thread_.join();
    } else {
      watch->thread_.detach();
      new std::shared_ptr<Watch>(watch);
    }
  }

  void fail(const std::string& reason) {
    meeting_->fail(reason);
    wake();
  }

  /** Reports that this rank is done; rank 0, which may have the store, waits for the others. */
  void leave(milliseconds grace) {
    leaving_ = true;
    wake();
    const auto start = Clock::now();
    const auto patience = [&] {
      if (!meeting_->is_lost()) return grace;
      return meeting_->rank == 0 ? kLinger : milliseconds(0);
    };
    while (Clock::now() < start + patience() && !all_left_ && !process_ends())
      std::this_thread::sleep_for(milliseconds(20));
  }

  bool has_failed() const { return failed_; }

 private:
  void wake() {
    const std::lock_guard lock(mutex_);
    hurry_ = true;
    woken_.notify_all();
  }

  void run() noexcept {
    while (!stopping_ && !process_ends()) {
      try {
        look();
        answered_ = Clock::now();
      } catch (...) {
        if (!stopping_) lose_store("no longer answers");
        break;
      }
      if (meeting_->is_over() && !leaving_) break;
      std::unique_lock lock(mutex_);
      woken_.wait_for(lock, meeting_->suspects || leaving_ ? kQuickBeat : kBeat, [this] { return hurry_ || stopping_; });
      hurry_ = false;
    }
    ended_ = true;
  }

  /** Notices if the thread above waits for an answer of the store that does not come. */
  void guard() noexcept {
    while (!stopping_ && !ended_ && !process_ends()) {
      std::this_thread::sleep_for(milliseconds(100));
      if (ms_since(answered_) > static_cast<double>(kSilence.count()))
        return lose_store("has not answered for " + seconds(ms_since(answered_)));
    }
  }

  void lose_store(const std::string& how) {
    if (leaving_) { // the rank with the store has left as well
      all_left_ = true;
      return;
    }
    std::string host;
    {
      const std::lock_guard lock(mutex_);
      host = first_host_;
    }
    meeting_->lose(loss_words(
        c10::str("its store, through which ranks find each other, ", how, ": it has ended or can't be reached"), 0, host));
  }

  void look() {
    tell_failure();
    report();
    if (store_->check({"failed"})) {
      const auto words = store_->get("failed");
      meeting_->lose(std::string(words.begin(), words.end()));
      return;
    }
    if (meeting_->suspects && !told_suspicion_) {
      store_->set("suspects", bytes_of("1"));
      told_suspicion_ = true;
    } else if (!meeting_->suspects && store_->check({"suspects"})) {
      meeting_->suspects = told_suspicion_ = true;
    }
    if (meeting_->rank == 0) judge_all();
    else judge_first();
    judge_self();
  }

  void tell_failure() {
    const std::string reason = meeting_->failure();
    if (reason.empty() || failed_) return;
    declare(meeting_->rank, host_, reason);
    failed_ = true;
  }

  /** Writes why the group is lost; the first to do so wins. */
  void declare(int rank, const std::string& host, const std::string& reason) {
    store_->compareSet("failed", {}, bytes_of(loss_words(reason, rank, host)));
  }

  void report() {
    Report own;
    own.number = ++number_;
    own.left = leaving_;
    own.still_ms = calls_.update(moves().calls);
    own.awaits = meeting_->awaited > 0 || meeting_->on_card > 0;
    own.collectives = meeting_->collectives;
    own.tells = meeting_->tells;
    own.host = host_;
    own.what = meeting_->begun();
    store_->set(key_of(meeting_->rank), bytes_of(own.text()));
    if (own.left && meeting_->rank != 0) all_left_ = true; // only rank 0 waits for others
  }

  static std::string key_of(int rank) { return c10::str("report/", rank); }

  /** The last report of a rank, and when it came. */
  struct Heard {
    Report report;
    Clock::time_point at = Clock::now();
  };

  double silence_ms() const {
    return static_cast<double>((meeting_->suspects ? kShortSilence : kSilence).count());
  }

  void hear(int rank, const std::vector<uint8_t>& bytes) {
    Report report = Report::read(bytes);
    Heard& last = heard_[rank];
    if (report.number != last.report.number) last.at = Clock::now();
    last.report = std::move(report);
  }

  /** Other ranks look after rank 0, which looks after all. */
  void judge_first() {
    if (!store_->check({key_of(0)})) return;
    hear(0, store_->get(key_of(0)));
    {
      const std::lock_guard lock(mutex_);
      first_host_ = heard_[0].report.host;
    }
    judge_silence(0);
  }

  void judge_all() {
    std::vector<std::string> keys;
    for (int rank = 0; rank < meeting_->count; ++rank) keys.push_back(key_of(rank));
    if (!store_->check(keys)) return; // not all have come yet; who opens the group waits for them
    const auto all = store_->multiGet(keys);
    for (int rank = 0; rank < meeting_->count; ++rank) hear(rank, all[rank]);
    bool left = true;
    int quietest = 0;
    for (const auto& [rank, heard] : heard_) {
      if (rank == 0 || heard.report.left) continue;
      left = false;
      if (quietest == 0 || heard.at < heard_[quietest].at) quietest = rank;
    }
    all_left_ = left;
    if (!left) judge_silence(quietest);
    judge_early_leavers();
    judge_standstill();
  }

  void judge_silence(int rank) {
    const Heard& heard = heard_[rank];
    if (rank == meeting_->rank || heard.report.left || ms_since(heard.at) <= silence_ms()) return;
    declare(rank, heard.report.host, "it has not been heard from for " + seconds(ms_since(heard.at)) + ": it has ended or can't be reached");
  }

  /** A rank that has left can't be waited for. */
  void judge_early_leavers() {
    for (const auto& [left, early] : heard_) {
      if (!early.report.left) continue;
      for (const auto& [rank, heard] : heard_) {
        const Report& waits = heard.report;
        if (waits.left || !waits.awaits) continue;
        if (waits.collectives > early.report.collectives || waits.tells > early.report.tells)
          return declare(left, early.report.host, c10::str("it has left before ", waits.what, ", for which rank ", rank, " waits"));
      }
    }
  }

  /** All ranks wait and do nothing else: for different things, or the network lets nothing through. */
  void judge_standstill() {
    for (const auto& [rank, heard] : heard_) {
      if (!heard.report.left && (!heard.report.awaits || heard.report.still_ms < static_cast<double>(limit_.count()))) return;
    }
    std::string places;
    int last = 0;
    for (const auto& [rank, heard] : heard_) {
      if (heard.report.left) continue;
      places += c10::str(places.empty() ? "rank " : ", rank ", rank, " in ", heard.report.what);
      const auto progress = [](const Report& report) { return report.collectives + report.tells; };
      if (progress(heard.report) < progress(heard_[last].report)) last = rank;
    }
    if (places.empty()) return;
    declare(last, heard_[last].report.host, c10::str("all ranks wait for each other, for ", seconds(static_cast<double>(limit_.count())), ": ", places));
  }

  /** A rank that neither computes nor turns its event loop nor waits for others is stuck. */
  void judge_self() {
    const bool waits = meeting_->blocked || meeting_->on_card > 0;
    const double still_ms = all_moves_.update(moves().calls + moves().turns + (waits ? number_ : 0));
    const double allowed_ms = static_cast<double>(limit_.count()) + longest_still_ms_;
    if (still_ms > allowed_ms) declare(meeting_->rank, host_, "it has done nothing for " + seconds(still_ms) + ": it hangs");
    else if (still_ms < last_still_ms_) longest_still_ms_ = std::max(longest_still_ms_, last_still_ms_);
    last_still_ms_ = still_ms;
  }

  const std::shared_ptr<Meeting> meeting_;
  const StorePtr store_;
  const std::string host_;
  const milliseconds limit_;
  std::mutex mutex_;
  std::condition_variable woken_;
  bool hurry_ = false;
  std::string first_host_; // of rank 0
  std::atomic<bool> stopping_ = false, ended_ = false, leaving_ = false, all_left_ = false, failed_ = false;
  std::atomic<Clock::time_point> answered_ = Clock::now();
  // For the thread only:
  bool told_suspicion_ = false;
  uint64_t number_ = 0;
  Stillness calls_, all_moves_;
  double last_still_ms_ = 0, longest_still_ms_ = 0;
  std::map<int, Heard> heard_;
  std::thread thread_, guard_;
};

/** The watches that run, by meeting. For the JavaScript thread. */
std::map<Meeting*, std::shared_ptr<Watch>>& watches() {
  static auto* all = new std::map<Meeting*, std::shared_ptr<Watch>>;
  return *all;
}

std::shared_ptr<Watch> to_watch(const Arguments& arguments) {
  const auto found = watches().find(to_connection(arguments.env, arguments[0]).meeting.get());
  TORCH_CHECK(found != watches().end(), "nobody watches this group of ranks");
  return found->second;
}

/** Calls a JavaScript function with the words of the loss. */
void call_with_words(napi_env env, napi_value function, void*, void* data) {
  const std::unique_ptr<std::string> words(static_cast<std::string*>(data));
  if (!env) return;
  unref_promises(env);
  const napi_value argument = from_string(env, *words);
  napi_call_function(env, undefined_value(env), function, 1, &argument, nullptr);
}

/** Ends the threads of all watches. */
void end_watches(void*) {
  for (auto& [meeting, watch] : watches()) Watch::end(std::move(watch));
  watches().clear();
}

} // namespace

void stop_watches_with(napi_env env) { check(env, napi_add_env_cleanup_hook(env, end_watches, nullptr)); }

napi_value start_watch(const Arguments& arguments) {
  napi_env env = arguments.env;
  const Connection connection = to_connection(env, arguments[0]);
  const std::string host = to_string(env, arguments[1], "host");
  const milliseconds limit(to_int(env, arguments[2], "limitMs"));
  napi_threadsafe_function told;
  check(
      env, napi_create_threadsafe_function(
               env, arguments[3], nullptr, from_string(env, "the loss of a group of lorafit"), 0, 1, nullptr, nullptr,
               nullptr, call_with_words, &told));
  check(env, napi_unref_threadsafe_function(env, told));
  connection.meeting->on_loss([told, meeting = connection.meeting.get()] {
    auto words = std::make_unique<std::string>(meeting->lost_words(milliseconds(0)));
    if (napi_call_threadsafe_function(told, words.get(), napi_tsfn_nonblocking) == napi_ok) static_cast<void>(words.release());
  });
  return in_thread(env, [connection, host, limit]() -> Settle {
    const auto watch = std::make_shared<Watch>(connection, host, limit);
    return [watch, meeting = connection.meeting](napi_env env) {
      watches()[meeting.get()] = watch;
      return undefined_value(env);
    };
  });
}

napi_value fail_watch(const Arguments& arguments) {
  to_watch(arguments)->fail(to_string(arguments.env, arguments[1], "reason"));
  return undefined_value(arguments.env);
}

napi_value lost_words(const Arguments& arguments) {
  const milliseconds grace(to_int(arguments.env, arguments[1], "graceMs"));
  return in_thread(
      arguments.env, [meeting = to_connection(arguments.env, arguments[0]).meeting, grace]() -> Settle {
        return [words = meeting->lost_words(grace)](napi_env env) { return from_string(env, words); };
      });
}

napi_value leave_watch(const Arguments& arguments) {
  napi_env env = arguments.env;
  const milliseconds grace(to_int(env, arguments[1], "graceMs"));
  const auto watch = to_watch(arguments);
  watches().erase(to_connection(env, arguments[0]).meeting.get());
  return in_thread(env, [watch, grace]() mutable -> Settle {
    watch->leave(grace);
    Watch::end(std::move(watch));
    return nullptr;
  });
}

napi_value fail_now(const Arguments& arguments) {
  const auto watch = to_watch(arguments);
  watch->fail(to_string(arguments.env, arguments[1], "reason"));
  const auto end = Clock::now() + milliseconds(1000);
  while (!watch->has_failed() && Clock::now() < end) std::this_thread::sleep_for(milliseconds(5));
  return undefined_value(arguments.env);
}

} // namespace lorafit
