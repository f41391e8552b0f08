// Gloo for the CPU, by c10d.
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <cstring>

#include "group.h"
#include "jobs.h"

namespace lorafit {
namespace {

using std::chrono::milliseconds;

/** Gloo's own limit. The watch ends waits long before, so this limit must never be the first. */
constexpr milliseconds kNever = std::chrono::hours(24 * 7);

/** Returns the tensor's bytes as a tensor that owns nothing: Gloo's threads let go of it at any time. */
at::Tensor lent_bytes(const at::Tensor& tensor, size_t part, size_t parts) {
  const size_t bytes = tensor.nbytes() / parts;
  return at::from_blob(
      static_cast<char*>(tensor.mutable_data_ptr()) + part * bytes, {static_cast<int64_t>(bytes)}, at::kByte);
}

using GlooDevice = std::shared_ptr<gloo::transport::Device>;

/** Returns a device for an address or the name of a network interface. */
GlooDevice device_of(const std::string& interface) {
  const bool is_address = interface.find_first_of(".:") != std::string::npos;
  return is_address ? c10d::ProcessGroupGloo::createDeviceForHostname(interface)
                    : c10d::ProcessGroupGloo::createDeviceForInterface(interface);
}

/** Gloo, by c10d. It takes no memory for what it moves, except small segments that sums go through. */
class GlooCarrier final : public Carrier {
 public:
  /** Connects all ranks through the store. */
  GlooCarrier(const StorePtr& store, const Meeting& meeting, const GlooDevice& device, int threads, milliseconds timeout)
      : size_(meeting.count) {
    auto options = c10d::ProcessGroupGloo::Options::create(timeout);
    options->threads = threads;
    options->devices.push_back(device);
    try {
      gloo_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store, meeting.rank, meeting.count, options);
    } catch (...) {
      throw PeerFailure("Gloo can't connect the ranks: " + words_of(std::current_exception()));
    }
    gloo_->setTimeout(kNever);
  }

  ~GlooCarrier() override {
    if (*under_way_ > 0) static_cast<void>(gloo_.release()); // its threads wait for other ranks for ever
  }

  std::shared_ptr<const c10::Event> start(const Request& request, const c10::Event*, Ended ended) override {
    auto works = works_of(request);
    const auto state = std::make_shared<State>(works.size(), std::move(ended));
    ++*under_way_;
    for (const auto& work : works) {
      work->getFuture()->addCallback([state, under_way = under_way_](c10::ivalue::Future& future) {
        if (!state->end_one(future.hasError() ? future.exception_ptr() : nullptr)) return;
        --*under_way;
        state->ended(state->error);
      });
    }
    return nullptr;
  }

 private:
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;

  /** Works that make up one collective. */
  struct State {
    State(size_t left, Ended ended) : left(left), ended(std::move(ended)) {}
    /** Returns whether it was the last one. */
    bool end_one(const std::exception_ptr& failure) {
      const std::lock_guard lock(mutex);
      if (failure && !error) error = failure;
      return --left == 0;
    }
    std::mutex mutex;
    size_t left;
    std::exception_ptr error;
    const Ended ended;
  };

  std::vector<WorkPtr> works_of(const Request& request) {
    switch (request.kind) {
      case Kind::kSum: {
        std::vector<at::Tensor> lent{at::from_blob(
            request.to.mutable_data_ptr(), {request.to.numel()}, request.to.scalar_type())};
        return {gloo_->allreduce(lent)};
      }
      case Kind::kGather: return gather(request);
      case Kind::kExchange: {
        at::Tensor to = lent_bytes(request.to, 0, 1), from = lent_bytes(request.from, 0, 1);
        std::vector<int64_t> equal;
        return {gloo_->alltoall_base(to, from, equal, equal)};
      }
      case Kind::kBroadcast: return {broadcast(lent_bytes(request.to, 0, 1), request.root)};
    }
    return {};
  }

  /** Gloo's own gather goes through a copy of the result. A broadcast from each rank, in place, does not. */
  std::vector<WorkPtr> gather(const Request& request) {
    const at::Tensor own = lent_bytes(request.to, gloo_->getRank(), size_);
    std::memmove(own.mutable_data_ptr(), request.from.const_data_ptr(), own.nbytes());
    std::vector<WorkPtr> works;
    for (int rank = 0; rank < size_; ++rank) works.push_back(broadcast(lent_bytes(request.to, rank, size_), rank));
    return works;
  }

  WorkPtr broadcast(const at::Tensor& lent, int root) {
    std::vector<at::Tensor> tensors{lent};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return gloo_->broadcast(tensors, options);
  }

  const int size_;
  const std::shared_ptr<std::atomic<int>> under_way_ = std::make_shared<std::atomic<int>>(0);
  c10::intrusive_ptr<c10d::ProcessGroupGloo> gloo_;
};

} // namespace

std::unique_ptr<Carrier> make_cpu_carrier(
    const StorePtr& store, const Meeting& meeting, const std::string& interface, int threads, milliseconds timeout) {
  const GlooDevice device = device_of(interface);
  return std::make_unique<GlooCarrier>(store, meeting, device, threads, timeout);
}

} // namespace lorafit
