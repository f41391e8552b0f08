// Copies of memory by the processor: from one place to another, or into pinned buffers that a card reads.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Event.h>

#include <array>
#include <atomic>
#include <optional>

namespace lorafit {

/** Copies like memcpy, with as many threads as are worthwhile. */
void copy_bytes(char* to, const char* from, size_t length, bool to_card);

/** Copies memory that a card cannot read asynchronously, through two pinned buffers in turn. */
class Staging {
 public:
  /** Bytes of both buffers; once made, the buffers stay. */
  static constexpr int64_t kAllBytes = int64_t{32} << 20;

  /** Allocates the buffers. Call on the thread that may allocate. */
  explicit Staging(c10::DeviceType card);

  /** Queues a copy piece by piece, waiting for room; throws once `stopping` is set. */
  void copy(const at::Tensor& to, const at::Tensor& from, const c10::Stream& stream, const std::atomic<bool>& stopping);

 private:
  struct Buffer {
    at::Tensor bytes;
    std::optional<c10::Event> sent;
  };
  std::array<Buffer, 2> buffers_;
  size_t turn_ = 0;
};

} // namespace lorafit
