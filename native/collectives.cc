#include "collectives.h"

#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <deque>
#include <thread>

#include "cuda.h"
#include "group.h"
#include "handles.h"
#include "jobs.h"

namespace lorafit {
namespace {

using std::chrono::milliseconds;

constexpr std::array<const char*, 4> kNames{"sum", "gather", "exchange", "broadcast"};

/** A collective that was started. Its tensors are released on the JavaScript thread, at a known time. */
struct Collective {
  Request request;
  std::string what; // "sum 17 of float32[3]"
  std::shared_ptr<Meeting> meeting;
  std::optional<c10::Event> computed; // on a card: the work queued before it
  // Under the meeting's mutex:
  bool started = false;
  bool done = false;
  std::exception_ptr error;
  bool peer_failed = false; // the error is one of a connection
  std::shared_ptr<const c10::Event> carried; // on a card: its end

  void end(const std::exception_ptr& failure, bool by_peer = true) {
    if (failure && by_peer) meeting->suspects = true;
    meeting->change([&] {
      error = failure;
      peer_failed = by_peer;
      started = done = true;
    });
  }
};
using CollectivePtr = std::shared_ptr<Collective>;

void start(Carrier& carrier, const CollectivePtr& collective) noexcept {
  if (collective->request.to.numel() == 0) return collective->end(nullptr);
  try {
    auto carried = carrier.start(
        collective->request, collective->computed ? &*collective->computed : nullptr,
        [collective](const std::exception_ptr& error) { collective->end(error); });
    collective->meeting->change([&] {
      collective->started = true;
      collective->carried = std::move(carried);
    });
  } catch (const PeerFailure&) {
    collective->end(std::current_exception());
  } catch (...) {
    collective->end(std::current_exception(), /*by_peer=*/false);
  }
}

/**
 * The debug mode: a thread that compares each collective with those of the other ranks before it starts.
 * Gloo would end the process or compute nonsense where they differ.
 */
class Checker {
 public:
  Checker(StorePtr store, std::shared_ptr<Meeting> meeting)
      : store_(std::move(store)), meeting_(std::move(meeting)), thread_([this] { run(); }) {}

  /** Ends the thread, once the meeting is closed or lost. False if it waits for an answer of the store. */
  bool end() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
      work_.notify_all();
    }
    const auto patience = std::chrono::steady_clock::now() + milliseconds(2000);
    while (!ended_ && std::chrono::steady_clock::now() < patience) std::this_thread::sleep_for(milliseconds(1));
    if (ended_) thread_.join();
    else thread_.detach();
    return ended_;
  }

  void add(Carrier& carrier, CollectivePtr collective) {
    const std::lock_guard lock(mutex_);
    waiting_.emplace_back(&carrier, std::move(collective));
    work_.notify_all();
  }

 private:
  void run() {
    while (true) {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [this] { return stopping_ || !waiting_.empty(); });
      if (waiting_.empty()) break;
      auto [carrier, collective] = std::move(waiting_.front());
      waiting_.pop_front();
      lock.unlock();
      try {
        compare(collective->what);
      } catch (...) {
        collective->end(std::current_exception(), /*by_peer=*/difference_.empty());
        continue;
      }
      lorafit::start(*carrier, collective);
    }
    ended_ = true;
  }

  void compare(const std::string& what) {
    TORCH_CHECK(difference_.empty(), difference_);
    std::vector<std::string> keys;
    const auto key = [](uint64_t number, int rank) { return c10::str("check/", number, "/", rank); };
    for (int rank = 0; rank < meeting_->count; ++rank) keys.push_back(key(number_, rank));
    store_->set(keys[meeting_->rank], std::vector<uint8_t>(what.begin(), what.end()));
    wait_for_keys(*store_, *meeting_, keys);
    const auto all = store_->multiGet(keys);
    if (number_ > 0) store_->deleteKey(key(number_ - 1, meeting_->rank)); // all have read it
    ++number_;
    for (int rank = 1; rank < meeting_->count; ++rank) {
      if (all[rank] == all[0]) continue;
      const auto text = [](const std::vector<uint8_t>& bytes) { return std::string(bytes.begin(), bytes.end()); };
      difference_ = c10::str(
          "ranks start different collectives: rank ", rank, " ", text(all[rank]), ", rank 0 ", text(all[0]));
      TORCH_CHECK(false, difference_);
    }
  }

  const StorePtr store_;
  const std::shared_ptr<Meeting> meeting_;
  std::string difference_;
  uint64_t number_ = 0;
  std::mutex mutex_;
  std::condition_variable work_;
  std::deque<std::pair<Carrier*, CollectivePtr>> waiting_;
  bool stopping_ = false;
  std::atomic<bool> ended_ = false;
  std::thread thread_;
};

struct Group {
  std::shared_ptr<Meeting> meeting;
  std::map<c10::DeviceType, std::shared_ptr<Carrier>> carriers;
  std::unique_ptr<Checker> checker;
};

SlotTable<std::shared_ptr<Group>>& groups() {
  static auto* table = new SlotTable<std::shared_ptr<Group>>;
  return *table;
}

SlotTable<CollectivePtr>& collectives() {
  static auto* table = new SlotTable<CollectivePtr>;
  return *table;
}

Group& to_group(napi_env env, napi_value value) {
  const auto* found = groups().find(to_double(env, value, "group"));
  TORCH_CHECK(found, "the group of ranks was closed");
  return **found;
}

CollectivePtr to_collective(const Arguments& arguments) {
  const auto* found = collectives().find(to_double(arguments.env, arguments[0], "collective"));
  TORCH_CHECK(found, "the collective was waited for already");
  return *found;
}

/** Returns "float32[2, 3]": a tensor's description without its device, which differs between ranks. */
std::string shape_of(const at::Tensor& tensor) {
  const std::string text = describe(tensor);
  return text.substr(0, text.rfind(' '));
}

std::string what_of(const Request& request, uint64_t number) {
  std::string text = c10::str(kNames.at(static_cast<size_t>(request.kind)), " ", number, " of ", shape_of(request.to));
  if (request.kind == Kind::kBroadcast) text += c10::str(" from rank ", request.root);
  return text;
}

/** Throws an error of the carrier, or rather the watch's words on which rank is gone, if they come soon. */
[[noreturn]] void raise(const Collective& collective) {
  const std::string lost = collective.meeting->lost_words(collective.peer_failed ? kGrace : milliseconds(0));
  TORCH_CHECK(lost.empty(), lost);
  const std::string words = collective.what + ": " + words_of(collective.error);
  TORCH_CHECK(false, collective.peer_failed ? loss_words(words) : words);
}

/** Blocks until a collective is done, on a card until it is queued. */
void await(const Collective& collective) {
  collective.meeting->wait([&] { return collective.done || (collective.started && collective.carried); });
  if (collective.error) raise(collective);
}

/** Frees the tensors, unless Gloo may still write to them: the group is lost then, and the process ends. */
void let_go(const CollectivePtr& collective) {
  bool done = false;
  collective->meeting->change([&] { done = collective->done || collective->carried; });
  if (done) collective->request = {};
  else new CollectivePtr(collective);
}

} // namespace

napi_value open_group(const Arguments& arguments) {
  napi_env env = arguments.env;
  const Connection connection = to_connection(env, arguments[0]);
  const std::string interface = to_string(env, arguments[1], "interface");
  const int threads = static_cast<int>(to_int(env, arguments[2], "threads"));
  const milliseconds timeout(to_int(env, arguments[3], "timeoutMs"));
  const bool checks = to_bool(env, arguments[4], "checks");
  return in_thread(env, [=]() -> Settle {
    auto group = std::make_shared<Group>();
    group->meeting = connection.meeting;
    with_peers([&] {
      group->carriers[c10::kCPU] = make_cpu_carrier(
          c10::make_intrusive<c10d::PrefixStore>("gloo", connect_again(connection).store), *connection.meeting,
          interface, threads, timeout);
      if (checks)
        group->checker = std::make_unique<Checker>(connect_again(connection).store, connection.meeting);
    });
    return [group](napi_env env) { return from_double(env, groups().insert(group)); };
  }, /*may_hang=*/true);
}

napi_value open_cards(const Arguments& arguments) {
  napi_env env = arguments.env;
  const auto* group = groups().find(to_double(env, arguments[0], "group"));
  TORCH_CHECK(group, "the group of ranks was closed");
  const Connection connection = to_connection(env, arguments[1]);
  const c10::Device device = to_device(env, arguments[2], "device");
  const std::string library = to_string(env, arguments[3], "library");
  ensure_cuda();
  return in_thread(env, [group = *group, connection, device, library]() -> Settle {
    std::shared_ptr<Carrier> carrier = with_peers(
        [&] { return make_card_carrier(connect_again(connection).store, group->meeting, device, library); });
    return [group, carrier, type = device.type()](napi_env env) {
      group->carriers[type] = carrier;
      return undefined_value(env);
    };
  }, /*may_hang=*/true);
}

napi_value close_group(const Arguments& arguments) {
  const double handle = to_double(arguments.env, arguments[0], "group");
  const Group& group = to_group(arguments.env, arguments[0]);
  group.meeting->close();
  if (group.checker && !group.checker->end()) new std::shared_ptr<Group>(*groups().find(handle)); // its thread needs it
  groups().erase(handle);
  return undefined_value(arguments.env);
}

napi_value start_collective(const Arguments& arguments) {
  napi_env env = arguments.env;
  Group& group = to_group(env, arguments[0]);
  auto collective = std::make_shared<Collective>();
  Request& request = collective->request;
  request.kind = static_cast<Kind>(to_int(env, arguments[1], "kind"));
  request.to = to_tensor(env, arguments[2], "to");
  if (type_of(env, arguments[3]) != napi_undefined) request.from = to_tensor(env, arguments[3], "from");
  request.root = static_cast<int>(to_int(env, arguments[4], "root"));
  collective->meeting = group.meeting;
  if (request.to.is_meta()) {
    collective->started = collective->done = true;
    return from_double(env, collectives().insert(std::move(collective)));
  }
  const auto carrier = group.carriers.find(request.to.device().type());
  TORCH_CHECK(carrier != group.carriers.end(), "this group of ranks has no way to move ", describe(request.to));
  group.meeting->check_open();
  collective->what = what_of(request, ++group.meeting->collectives);
  group.meeting->begin(collective->what);
  if (!request.to.is_cpu()) {
    collective->computed.emplace(request.to.device().type());
    collective->computed->record(
        c10::impl::VirtualGuardImpl(request.to.device().type()).getStream(request.to.device()));
  }
  if (group.checker) group.checker->add(*carrier->second, collective);
  else start(*carrier->second, collective);
  return from_double(env, collectives().insert(std::move(collective)));
}

napi_value wait_collective(const Arguments& arguments) {
  const CollectivePtr collective = to_collective(arguments);
  collectives().erase(to_double(arguments.env, arguments[0], "collective"));
  Meeting& meeting = *collective->meeting;
  ++meeting.awaited;
  meeting.blocked = true;
  const auto unblock = [&] {
    --meeting.awaited;
    meeting.blocked = false;
  };
  try {
    await(*collective);
  } catch (...) {
    unblock();
    let_go(collective);
    throw;
  }
  unblock();
  if (collective->carried) {
    const c10::Device card = collective->request.to.device();
    collective->carried->block(c10::impl::VirtualGuardImpl(card.type()).getStream(card));
  }
  let_go(collective);
  if (collective->carried) meeting.check_open(); // a collective that was called off leaves garbage
  return undefined_value(arguments.env);
}

napi_value is_collective_done(const Arguments& arguments) {
  const CollectivePtr collective = to_collective(arguments);
  bool done = false;
  collective->meeting->change([&] { done = collective->done || (collective->carried && collective->carried->query()); });
  return from_bool(arguments.env, done || collective->meeting->is_over());
}

napi_value collective_arrival(const Arguments& arguments) {
  return in_thread(arguments.env, [collective = to_collective(arguments)]() -> Settle {
    Meeting& meeting = *collective->meeting;
    ++meeting.awaited;
    try {
      await(*collective);
      if (collective->carried) collective->carried->synchronize();
      if (collective->carried) meeting.check_open(); // a collective that was called off leaves garbage
    } catch (...) {
      --meeting.awaited;
      throw;
    }
    --meeting.awaited;
    return nullptr;
  });
}

napi_value pending_collectives(const Arguments& arguments) {
  return from_double(arguments.env, static_cast<double>(collectives().live()));
}

} // namespace lorafit
