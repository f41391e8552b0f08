#include "meeting.h"

#include <arpa/inet.h>
#include <c10/util/Logging.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <thread>

#include "group.h"
#include "handles.h"
#include "jobs.h"
#include "moves.h"

namespace lorafit {
namespace {

using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

/** Times between two questions whether a key is set: the first ones follow soon. */
constexpr std::chrono::microseconds kFirstPause{200}, kLastPause{20'000};
/** Keys in one question. */
constexpr size_t kBlock = 64;

SlotTable<Connection>& connections() {
  static auto* table = new SlotTable<Connection>;
  return *table;
}

/** Returns a socket that is bound to a port of this machine's loopback address. */
int bind_loopback(uint16_t port) {
  const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int on = 1;
  setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (socket < 0 || bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) {
    const std::string reason = std::strerror(errno);
    if (socket >= 0) ::close(socket);
    TORCH_CHECK(false, "port ", port, " of 127.0.0.1 can't be used: ", reason);
  }
  return socket;
}

std::vector<std::string> to_keys(napi_env env, napi_value value) {
  std::vector<std::string> keys;
  const uint32_t length = array_length(env, value, "keys");
  for (uint32_t i = 0; i < length; ++i) keys.push_back(to_string(env, element(env, value, i), "key"));
  return keys;
}

/** Runs what asks the store on a thread; an error of the store is a loss of the group. */
napi_value ask_store(napi_env env, std::function<Settle()> ask) {
  return in_thread(env, [ask = std::move(ask)] { return with_peers(ask); }, /*may_hang=*/true);
}

Settle connection_settle(Connection connection) {
  return [connection = std::move(connection)](napi_env env) {
    return from_double(env, connections().insert(connection));
  };
}

void connect(Connection& connection, const c10d::TCPStoreOptions& options) {
  connection.tcp = c10::make_intrusive<c10d::TCPStore>(connection.host, options);
  connection.store = c10::make_intrusive<c10d::PrefixStore>(connection.prefix, connection.tcp);
}

std::string json_text(const std::string& text) {
  std::string quoted = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') quoted += '\\';
    quoted += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
  }
  return quoted + '"';
}

/** Counts a wait for other ranks while it lasts. */
class Awaiting {
 public:
  explicit Awaiting(Meeting& meeting) : meeting_(meeting) { ++meeting_.awaited; }
  Awaiting(const Awaiting&) = delete;
  Awaiting& operator=(const Awaiting&) = delete;
  ~Awaiting() { --meeting_.awaited; }

 private:
  Meeting& meeting_;
};

} // namespace

std::string loss_words(const std::string& reason) { return c10::str("{\"reason\":", json_text(reason), "}"); }

std::string loss_words(const std::string& reason, int rank, const std::string& host) {
  return c10::str(
      "{\"rank\":", rank, ",\"host\":", json_text(host), ",\"reason\":", json_text(reason), "}");
}

Moves& moves() {
  static auto* all = new Moves;
  return *all;
}

void Meeting::lose(const std::string& words) {
  std::function<void()> told;
  {
    const std::lock_guard lock(mutex_);
    if (lost_ || closed_) return;
    words_ = words;
    lost_ = true;
    told = std::move(told_);
    told_ = nullptr;
    changed_.notify_all();
  }
  if (told) told();
}

void Meeting::close() {
  change([this] { closed_ = true; });
}

std::string Meeting::lost_words(milliseconds grace) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, grace, [this] { return is_over(); });
  return words_;
}

void Meeting::check_open() {
  const std::lock_guard lock(mutex_);
  if (is_over()) raise_locked();
}

void Meeting::raise_locked() { TORCH_CHECK(false, lost_ ? words_ : "this rank has left the group"); }

void Meeting::on_loss(std::function<void()> told) {
  {
    const std::lock_guard lock(mutex_);
    if (!lost_) {
      told_ = std::move(told);
      return;
    }
  }
  told();
}

void Meeting::fail(const std::string& reason) {
  const std::lock_guard lock(mutex_);
  if (failure_.empty()) failure_ = reason.empty() ? "it has failed" : reason;
}

std::string Meeting::failure() {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void Meeting::begin(const std::string& what) {
  const std::lock_guard lock(mutex_);
  begun_ = what;
}

std::string Meeting::begun() {
  const std::lock_guard lock(mutex_);
  return begun_;
}

Connection& to_connection(napi_env env, napi_value value) {
  Connection* found = connections().find(to_double(env, value, "store"));
  TORCH_CHECK(found, "the store was closed");
  return *found;
}

Connection connect_again(const Connection& connection) {
  c10d::TCPStoreOptions options;
  options.port = connection.tcp->getPort();
  options.timeout = connection.tcp->getTimeout();
  options.waitWorkers = false;
  Connection again = connection;
  connect(again, options);
  return again;
}

void wait_for_keys(
    c10d::Store& store, Meeting& meeting, const std::vector<std::string>& keys, milliseconds patience) {
  // The store's own wait can't be called off, and its end by time writes a warning.
  const auto end = Clock::now() + patience;
  auto pause = kFirstPause;
  for (size_t at = 0; at < keys.size(); at += kBlock) {
    const std::vector<std::string> block(keys.begin() + at, keys.begin() + std::min(keys.size(), at + kBlock));
    while (!store.check(block)) {
      meeting.check_open();
      TORCH_CHECK(!process_ends(), "this process ends");
      TORCH_CHECK(Clock::now() < end, "other ranks are not there after ", patience.count(), " ms");
      std::this_thread::sleep_for(pause);
      pause = std::min(kLastPause, pause * 5 / 4);
    }
  }
}

napi_value open_store(const Arguments& arguments) {
  napi_env env = arguments.env;
  // c10d writes warnings with stacks of C++ whenever a rank is gone. Errors reach the caller in any case.
  if (!std::getenv("TORCH_CPP_LOG_LEVEL")) FLAGS_caffe2_log_level = 3;
  Connection opened;
  opened.host = to_string(env, arguments[0], "host");
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(to_int(env, arguments[1], "port"));
  options.isServer = to_bool(env, arguments[2], "serves");
  const int64_t fd = to_int(env, arguments[3], "listenFd");
  options.timeout = milliseconds(to_int(env, arguments[4], "timeoutMs"));
  options.waitWorkers = false;
  opened.meeting = std::make_shared<Meeting>(
      static_cast<int>(to_int(env, arguments[5], "rank")), static_cast<int>(to_int(env, arguments[6], "count")));
  opened.prefix = to_string(env, arguments[7], "prefix");
  if (options.isServer && fd >= 0) options.masterListenFd = static_cast<int>(fd);
  else if (options.isServer && opened.host == "127.0.0.1") options.masterListenFd = bind_loopback(options.port);
  return in_thread(env, [opened, options]() mutable {
    connect(opened, options);
    return connection_settle(std::move(opened));
  });
}

napi_value connect_store(const Arguments& arguments) {
  return in_thread(arguments.env, [from = to_connection(arguments.env, arguments[0])] {
    return connection_settle(connect_again(from));
  });
}

napi_value store_port(const Arguments& arguments) {
  return from_double(arguments.env, to_connection(arguments.env, arguments[0]).tcp->getPort());
}

napi_value store_set(const Arguments& arguments) {
  napi_env env = arguments.env;
  const Bytes bytes = to_bytes(env, arguments[2], "value");
  return ask_store(
      env, [store = to_connection(env, arguments[0]).store, key = to_string(env, arguments[1], "key"),
            value = std::vector<uint8_t>(bytes.data, bytes.data + bytes.length)]() -> Settle {
        store->set(key, value);
        return nullptr;
      });
}

napi_value store_get(const Arguments& arguments) {
  napi_env env = arguments.env;
  const Connection& connection = to_connection(env, arguments[0]);
  const milliseconds patience(to_int(env, arguments[3], "patienceMs"));
  connection.meeting->begin(to_string(env, arguments[2], "what"));
  ++connection.meeting->tells;
  return ask_store(
      env, [store = connection.store, meeting = connection.meeting, keys = to_keys(env, arguments[1]),
            patience]() -> Settle {
        const Awaiting awaiting(*meeting);
        wait_for_keys(*store, *meeting, keys, patience);
        return [values = store->multiGet(keys)](napi_env env) {
          napi_value all = new_array(env, values.size());
          for (uint32_t i = 0; i < values.size(); ++i)
            set_element(env, all, i, from_bytes(env, values[i].data(), values[i].size()));
          return all;
        };
      });
}

napi_value store_has(const Arguments& arguments) {
  napi_env env = arguments.env;
  return ask_store(
      env, [store = to_connection(env, arguments[0]).store,
            key = to_string(env, arguments[1], "key")]() -> Settle {
        return [has = store->check({key})](napi_env env) { return from_bool(env, has); };
      });
}

napi_value store_delete(const Arguments& arguments) {
  napi_env env = arguments.env;
  return ask_store(
      env, [store = to_connection(env, arguments[0]).store,
            key = to_string(env, arguments[1], "key")]() -> Settle {
        store->deleteKey(key);
        return nullptr;
      });
}

napi_value close_store(const Arguments& arguments) {
  connections().erase(to_double(arguments.env, arguments[0], "store"));
  return undefined_value(arguments.env);
}

napi_value count_turn(const Arguments& arguments) {
  ++moves().turns;
  --moves().calls; // this call is none
  return undefined_value(arguments.env);
}

} // namespace lorafit
