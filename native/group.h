// A group of ranks inside the engine: connections to the store, the loss of the group, and carriers.
#pragma once

#include <c10/core/Event.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <atomic>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>

#include "jobs.h"
#include "values.h"

namespace lorafit {

using StorePtr = c10::intrusive_ptr<c10d::Store>;

/** Time for the watch to find out which rank is gone, after a connection to one has failed. */
constexpr std::chrono::milliseconds kGrace{20'000};

/** An error whose reason may be another rank, such as a broken connection. */
class PeerFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/**
 * Returns a loss of the group as JSON, {"rank", "host", "reason"}; without a rank if nobody knows whose fault
 * it is. TypeScript tells such errors from those of this rank alone.
 */
std::string loss_words(const std::string& reason);
std::string loss_words(const std::string& reason, int rank, const std::string& host);

/** Runs what needs other ranks or their store. Their failures are thrown as loss_words. */
template <typename Body>
auto with_peers(Body body) {
  std::string reason;
  try {
    return body();
  } catch (const PeerFailure&) {
    reason = words_of(std::current_exception());
  } catch (const c10::DistError&) { // the store's
    reason = words_of(std::current_exception());
  }
  TORCH_CHECK(false, loss_words(reason));
}

/** Facts that all threads of one group share. Whoever waits for other ranks waits here. */
class Meeting {
 public:
  const int rank, count;

  Meeting(int rank, int count) : rank(rank), count(count) {}

  /** Blocks until `done` or the group is lost or closed; throws why it is lost. */
  template <typename Done>
  void wait(Done done) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return done() || lost_ || closed_; });
    if (!done()) raise_locked();
  }
  /** Runs `change` under the mutex, and wakes all that wait. */
  template <typename Change>
  void change(Change change) {
    const std::lock_guard lock(mutex_);
    change();
    changed_.notify_all();
  }
  /** Marks the group as lost; only the first call has an effect. */
  void lose(const std::string& words);
  /** Marks the group as closed by this rank. */
  void close();
  bool is_over() const { return lost_ || closed_; }
  bool is_lost() const { return lost_; }
  /** Why the group is lost; waits up to `grace` for it. Empty if it is not. */
  std::string lost_words(std::chrono::milliseconds grace);
  /** Throws if the group is lost or closed. */
  void check_open();
  /** Calls `told` once when the group is lost, from any thread or at once. */
  void on_loss(std::function<void()> told);

  /** A connection between two ranks has failed: the watch looks closer, and says who is gone. */
  std::atomic<bool> suspects = false;
  /** Collectives started and facts told by this rank. */
  std::atomic<uint64_t> collectives = 0, tells = 0;
  /** Waits for other ranks that are under way, and whether the JavaScript thread itself is blocked in one. */
  std::atomic<int> awaited = 0;
  /** Collectives that a card has not done yet: its stream waits for other ranks. */
  std::atomic<int> on_card = 0;
  std::atomic<bool> blocked = false;
  /** Sets or returns why this rank fails; the watch tells the others. Only the first reason counts. */
  void fail(const std::string& reason);
  std::string failure();
  /** Sets or returns what this rank has started last. */
  void begin(const std::string& what);
  std::string begun();

 private:
  [[noreturn]] void raise_locked();
  std::mutex mutex_;
  std::condition_variable changed_;
  std::atomic<bool> lost_ = false, closed_ = false;
  std::string words_, failure_, begun_;
  std::function<void()> told_;
};

/** One connection to the store. Its calls exclude each other, and one that waits makes the others wait. */
struct Connection {
  c10::intrusive_ptr<c10d::TCPStore> tcp;
  std::string host, prefix;
  StorePtr store; // tcp, with the prefix before all keys
  std::shared_ptr<Meeting> meeting;
};
/** Returns the connection with this handle; throws if there is none. For the JavaScript thread. */
Connection& to_connection(napi_env env, napi_value value);
/** Connects once more to a connection's store. */
Connection connect_again(const Connection& connection);
/** Waits until all keys are set; throws if the group is lost, or after `patience`. */
void wait_for_keys(
    c10d::Store& store, Meeting& meeting, const std::vector<std::string>& keys,
    std::chrono::milliseconds patience = std::chrono::hours(24 * 365));

enum class Kind { kSum, kGather, kExchange, kBroadcast };

/** A collective to start. `from` is undefined for sums and broadcasts. */
struct Request {
  Kind kind;
  at::Tensor to, from;
  int root;
};

/** Called once when a collective has ended, from any thread; with its error, or null. */
using Ended = std::function<void(std::exception_ptr)>;

/** Carries collectives between ranks, for one type of device. All ranks start the same ones in one order. */
class Carrier {
 public:
  virtual ~Carrier() = default;
  /**
   * Starts a collective, from any one thread at a time. `computed` marks the work on a card's current stream
   * that comes before it. Returns the event of its end on a card, and null on cpu, where `ended` is called.
   * Throws PeerFailure if another rank may be the reason.
   */
  virtual std::shared_ptr<const c10::Event> start(
      const Request& request, const c10::Event* computed, Ended ended) = 0;
};

/**
 * Makes a group's carrier for the CPU (gloo_carrier.cc); blocks until all ranks are connected. interface:
 * address or name of the network interface. Throws PeerFailure if other ranks can't be reached.
 */
std::unique_ptr<Carrier> make_cpu_carrier(
    const StorePtr& store, const Meeting& meeting, const std::string& interface, int threads,
    std::chrono::milliseconds timeout);

/** Makes a group's carrier of cards (nccl.cc); blocks until all ranks are there. */
std::unique_ptr<Carrier> make_card_carrier(
    const StorePtr& store, const std::shared_ptr<Meeting>& meeting, c10::Device device,
    const std::string& library);

} // namespace lorafit
