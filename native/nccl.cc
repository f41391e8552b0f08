// NCCL for cards, by its C functions. Its headers need CUDA's, which a user's machine does not have.
#include <c10/core/StreamGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <dlfcn.h>

#include <deque>
#include <thread>

#include "cuda.h"
#include "group.h"
#include "jobs.h"

namespace lorafit {
namespace {

using std::chrono::milliseconds;

constexpr milliseconds kLook{50};       // between two looks for errors
constexpr milliseconds kLaunch{5'000};  // a launch that takes longer is stuck, and abort ends it
constexpr int kSuccess = 0, kSystemError = 2, kRemoteError = 6, kInProgress = 7; // ncclResult_t
constexpr int kBytes = 1, kSum = 0; // ncclUint8: what only moves goes as bytes

/** The functions of libnccl.so.2 in use. They and their numbers have not changed since version 2.7. */
struct Nccl {
  struct Comm;
  struct UniqueId {
    char bytes[128];
  };

  /** Takes them from a library, or from those of libtorch_cuda.so, which needs libnccl itself. */
  explicit Nccl(const std::string& path) {
    void* library = RTLD_DEFAULT;
    if (!path.empty() || !dlsym(RTLD_DEFAULT, "ncclAllReduce")) {
      const std::string name = path.empty() ? "libnccl.so.2" : path;
      library = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
      TORCH_CHECK(library, "NCCL, which joins cards, can't be opened: ", dlerror());
    }
    const auto find = [library]<typename Function>(const char* name, Function& function) {
      function = reinterpret_cast<Function>(dlsym(library, name));
      TORCH_CHECK(function, "NCCL has no ", name);
    };
    find("ncclGetUniqueId", unique_id);
    find("ncclCommInitRank", init_rank);
    find("ncclCommGetAsyncError", async_error);
    find("ncclCommAbort", abort);
    find("ncclCommDestroy", destroy);
    find("ncclGetErrorString", error_string);
    find("ncclGetLastError", last_error);
    find("ncclAllReduce", all_reduce);
    find("ncclAllGather", all_gather);
    find("ncclBroadcast", broadcast);
    find("ncclSend", send);
    find("ncclRecv", receive);
    find("ncclGroupStart", group_start);
    find("ncclGroupEnd", group_end);
  }

  std::string words(int result, Comm* comm) const {
    const char* last = last_error(comm);
    return last && *last ? c10::str(error_string(result), "; ", last) : std::string(error_string(result));
  }
  void check(int result, const char* doing) const {
    if (result == kSuccess || result == kInProgress) return;
    const std::string trouble = c10::str("NCCL, ", doing, ": ", words(result, nullptr));
    if (result == kSystemError || result == kRemoteError) throw PeerFailure(trouble);
    TORCH_CHECK(false, trouble);
  }

  int (*unique_id)(UniqueId*);
  int (*init_rank)(Comm**, int, UniqueId, int);
  int (*async_error)(Comm*, int*);
  int (*abort)(Comm*);
  int (*destroy)(Comm*);
  const char* (*error_string)(int);
  const char* (*last_error)(Comm*);
  int (*all_reduce)(const void*, void*, size_t, int type, int op, Comm*, void* stream);
  int (*all_gather)(const void*, void*, size_t, int type, Comm*, void* stream);
  int (*broadcast)(const void*, void*, size_t, int type, int root, Comm*, void* stream);
  int (*send)(const void*, size_t, int type, int peer, Comm*, void* stream);
  int (*receive)(void*, size_t, int type, int peer, Comm*, void* stream);
  int (*group_start)();
  int (*group_end)();
};

/** Returns NCCL's number of a dtype whose elements it adds up. */
int summed_type(at::ScalarType type) {
  switch (type) {
    case at::kChar: return 0;
    case at::kByte: return 1;
    case at::kInt: return 2;
    case at::kLong: return 4;
    case at::kHalf: return 6;
    case at::kFloat: return 7;
    case at::kDouble: return 8;
    case at::kBFloat16: return 9;
    default: TORCH_CHECK(false, "NCCL adds up no ", type);
  }
}

/** Collectives of one card, on a stream of their own beside the computation. */
class NcclCarrier final : public Carrier {
 public:
  NcclCarrier(
      const StorePtr& store, std::shared_ptr<Meeting> meeting, c10::Device device, const std::string& library)
      : nccl_(library), meeting_(std::move(meeting)), device_(device), guard_(device.type()),
        stream_((guard_.setDevice(device), guard_.getStreamFromGlobalPool(device, /*isHighPriority=*/true))) {
    Nccl::UniqueId id{};
    if (meeting_->rank == 0) {
      nccl_.check(nccl_.unique_id(&id), "making an id");
      store->set("nccl", std::vector<uint8_t>(id.bytes, id.bytes + sizeof id.bytes));
    } else {
      wait_for_keys(*store, *meeting_, {"nccl"});
      const auto bytes = store->get("nccl");
      TORCH_CHECK(bytes.size() == sizeof id.bytes, "an id of NCCL with ", bytes.size(), " bytes");
      std::copy(bytes.begin(), bytes.end(), id.bytes);
    }
    nccl_.check(nccl_.init_rank(&comm_, meeting_->count, id, meeting_->rank), "joining the ranks");
    watcher_ = std::thread([this] { watch(); });
  }

  ~NcclCarrier() override {
    stopping_ = true;
    watcher_.join();
    if (aborted_) return;
    if (count_under_way() == 0) nccl_.destroy(comm_);
    else nccl_.abort(comm_);
  }

  std::shared_ptr<const c10::Event> start(const Request& request, const c10::Event* computed, Ended) override {
    const std::lock_guard lock(launching_);
    if (aborted_) throw PeerFailure(trouble_);
    const c10::StreamGuard on(stream_);
    computed->block(stream_);
    nccl_.check(launch(request, stream_.native_handle()), "starting a collective");
    auto done = std::make_shared<c10::Event>(device_.type());
    done->record(stream_);
    const std::lock_guard list(listing_);
    under_way_.push_back(done);
    ++meeting_->on_card;
    return done;
  }

 private:
  int launch(const Request& request, void* stream) {
    void* const to = request.to.mutable_data_ptr();
    switch (request.kind) {
      case Kind::kSum:
        return nccl_.all_reduce(
            to, to, request.to.numel(), summed_type(request.to.scalar_type()), kSum, comm_, stream);
      case Kind::kGather:
        return nccl_.all_gather(request.from.const_data_ptr(), to, request.from.nbytes(), kBytes, comm_, stream);
      case Kind::kBroadcast:
        return nccl_.broadcast(to, to, request.to.nbytes(), kBytes, request.root, comm_, stream);
      case Kind::kExchange: return exchange(request, stream);
    }
    return kSuccess;
  }

  int exchange(const Request& request, void* stream) {
    const size_t part = request.to.nbytes() / meeting_->count;
    const auto* from = static_cast<const char*>(request.from.const_data_ptr());
    auto* to = static_cast<char*>(request.to.mutable_data_ptr());
    int result = nccl_.group_start();
    for (int peer = 0; peer < meeting_->count && result == kSuccess; ++peer) {
      result = nccl_.send(from + part * peer, part, kBytes, peer, comm_, stream);
      if (result == kSuccess) result = nccl_.receive(to + part * peer, part, kBytes, peer, comm_, stream);
    }
    const int ended = nccl_.group_end();
    return result == kSuccess ? ended : result;
  }

  void watch() noexcept {
    try {
      guard_.setDevice(device_);
      while (!stopping_ && !process_ends()) {
        std::this_thread::sleep_for(kLook);
        count_under_way();
        int error = kSuccess;
        const int asked = nccl_.async_error(comm_, &error);
        if (asked != kSuccess) error = asked;
        if (meeting_->is_lost()) return abort("the group of ranks is lost");
        if (error != kSuccess && error != kInProgress) return fail("NCCL: " + nccl_.words(error, comm_));
      }
    } catch (...) { // the card itself is lost
      fail(words_of(std::current_exception()));
    }
  }

  size_t count_under_way() {
    const std::lock_guard list(listing_);
    while (!under_way_.empty() && under_way_.front()->query()) {
      under_way_.pop_front();
      --meeting_->on_card;
    }
    return under_way_.size();
  }

  /** The watch says which rank is gone, if it finds one. */
  void fail(const std::string& words) noexcept {
    meeting_->suspects = true;
    abort(words);
    if (meeting_->lost_words(kGrace).empty()) meeting_->fail(words);
  }

  /** Ends the kernels that wait for other ranks, so that the streams go on. */
  void abort(const std::string& words) noexcept {
    const std::unique_lock lock(launching_, kLaunch); // without it if a launch is stuck: abort ends that too
    trouble_ = words;
    aborted_ = true;
    nccl_.abort(comm_);
  }

  const Nccl nccl_;
  const std::shared_ptr<Meeting> meeting_;
  const c10::Device device_;
  const c10::impl::VirtualGuardImpl guard_;
  const c10::Stream stream_;
  Nccl::Comm* comm_ = nullptr;
  std::timed_mutex launching_; // a launch and an abort exclude each other
  std::string trouble_;        // written before aborted_
  std::atomic<bool> aborted_ = false, stopping_ = false;
  std::mutex listing_;
  std::deque<std::shared_ptr<const c10::Event>> under_way_;
  std::thread watcher_;
};

} // namespace

std::unique_ptr<Carrier> make_card_carrier(
    const StorePtr& store, const std::shared_ptr<Meeting>& meeting, c10::Device device,
    const std::string& library) {
  return std::make_unique<NcclCarrier>(store, meeting, device, library);
}

} // namespace lorafit
