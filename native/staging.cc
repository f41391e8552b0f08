#include "staging.h"

#include <ATen/ops/empty.h>
#include <c10/core/StreamGuard.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "allocators.h"

namespace lorafit {
namespace {

constexpr int64_t kBufferBytes = Staging::kAllBytes / 2;

/**
 * Returns the number of threads that copy at once. One core reads about 10 GB/s, a card's link carries up to
 * 55. On cpu, the cores are needed for computing. LORAFIT_COPY_THREADS overrides the number.
 */
unsigned copy_hands(bool to_card) {
  static const char* own = std::getenv("LORAFIT_COPY_THREADS");
  if (own) return std::clamp(std::atoi(own), 1, 16);
  return to_card ? std::clamp(std::thread::hardware_concurrency() / 2, 1u, 4u) : 1;
}

/** While an object of this class lives, books allocations to the host pool, as workspace. */
class HostWorkspace {
 public:
  HostWorkspace() : before_(std::exchange(current_booking(), {Pool::kHost, kWorkspace})) {}
  HostWorkspace(const HostWorkspace&) = delete;
  HostWorkspace& operator=(const HostWorkspace&) = delete;
  ~HostWorkspace() { current_booking() = before_; }

 private:
  const Booking before_;
};

} // namespace

void copy_bytes(char* to, const char* from, size_t length, bool to_card) {
  constexpr size_t kLeastBytes = size_t{1} << 20; // that make starting a thread worthwhile
  const size_t parts = std::clamp<size_t>(length / kLeastBytes, 1, copy_hands(to_card));
  const size_t part_bytes = (length + parts - 1) / parts;
  std::vector<std::jthread> others;
  for (size_t at = part_bytes; at < length; at += part_bytes) {
    const size_t bytes = std::min(part_bytes, length - at);
    try {
      others.emplace_back([=] { std::memcpy(to + at, from + at, bytes); });
    } catch (const std::system_error&) { // no thread can start
      std::memcpy(to + at, from + at, bytes);
    }
  }
  std::memcpy(to, from, std::min(part_bytes, length));
}

Staging::Staging(c10::DeviceType card) {
  const HostWorkspace booking;
  for (Buffer& buffer : buffers_) {
    buffer.bytes = at::empty({kBufferBytes}, at::TensorOptions().dtype(at::kByte).pinned_memory(true));
    buffer.sent.emplace(card);
  }
}

void Staging::copy(
    const at::Tensor& to, const at::Tensor& from, const c10::Stream& stream, const std::atomic<bool>& stopping) {
  const c10::StreamGuard guard(stream);
  const at::Tensor bytes = to.view({-1}).view(at::kByte);
  const auto* data = static_cast<const char*>(from.const_data_ptr());
  for (int64_t at = 0; at < bytes.numel(); at += kBufferBytes) {
    TORCH_CHECK(!stopping, "the copy was called off: the process ends");
    const int64_t length = std::min(kBufferBytes, bytes.numel() - at);
    Buffer& buffer = buffers_[turn_++ % buffers_.size()]; // for small tensors too, one buffer is filled while the other is sent
    buffer.sent->synchronize();
    copy_bytes(static_cast<char*>(buffer.bytes.mutable_data_ptr()), data + at, length, /*to_card=*/true);
    bytes.narrow(0, at, length).copy_(buffer.bytes.narrow(0, 0, length), /*non_blocking=*/true);
    buffer.sent->record(stream);
  }
}

} // namespace lorafit
