// Measures how long copies took, and how long computing waited for them. For the JavaScript thread; off until
// asked for.
#pragma once

#include <c10/core/Event.h>

#include <array>
#include <memory>
#include <optional>
#include <vector>

namespace lorafit {

/** A copy that was waited for: its events on the streams of a card, or its times on cpu. */
struct TimedCopy {
  int64_t bytes = 0;
  std::optional<c10::Event> began;          // on the copying stream
  std::shared_ptr<const c10::Event> copied;
  std::optional<c10::Event> came, goes_on;  // on the computing stream: before it waited, and after
  double copy_ms = 0, waited_ms = 0;
};

/** Records an event with a time. Such events cost more than events that only order work. */
inline c10::Event mark(const c10::Stream& stream) {
  c10::Event event(stream.device_type(), c10::EventFlag::BACKEND_DEFAULT);
  event.record(stream);
  return event;
}

class CopyClock {
 public:
  bool running() const { return running_; }

  /** Starts or stops timing, and forgets the times so far. */
  void run(bool on) {
    running_ = on;
    copies_.clear();
  }

  void add(TimedCopy copy) {
    if (running_) copies_.push_back(std::move(copy));
  }

  /**
   * Returns copies, bytes, milliseconds of copying, and milliseconds that computing waited. The card must
   * have finished the copies.
   */
  std::array<double, 4> take() {
    std::array<double, 4> sums{};
    for (const TimedCopy& copy : copies_) {
      sums[0] += 1;
      sums[1] += static_cast<double>(copy.bytes);
      sums[2] += copy.copied ? copy.began->elapsedTime(*copy.copied) : copy.copy_ms;
      sums[3] += copy.copied ? copy.came->elapsedTime(*copy.goes_on) : copy.waited_ms;
    }
    copies_.clear();
    return sums;
  }

 private:
  bool running_ = false;
  std::vector<TimedCopy> copies_;
};

} // namespace lorafit
