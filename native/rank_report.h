// Reports of the ranks, by which their watches judge them.
#pragma once

#include <c10/util/StringUtil.h>

#include <chrono>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

namespace lorafit {

/** A rank's report of itself, as text in the store. */
struct Report {
  uint64_t number = 0; // of the report
  bool left = false;   // it has done its part
  bool awaits = false; // it waits for other ranks, and does nothing else
  double still_ms = 0; // time since its last call into the engine
  uint64_t collectives = 0, tells = 0;
  std::string host, what; // what it has started last

  std::string text() const {
    return c10::str(
        number, ' ', left, ' ', awaits, ' ', static_cast<int64_t>(still_ms), ' ', collectives, ' ', tells, ' ', host,
        ' ', what);
  }
  static Report read(const std::vector<uint8_t>& bytes) {
    std::istringstream text(std::string(bytes.begin(), bytes.end()));
    Report report;
    text >> report.number >> report.left >> report.awaits >> report.still_ms >> report.collectives >>
        report.tells >> report.host;
    std::getline(text >> std::ws, report.what);
    return report;
  }
};

/** How long this process has been still, from counts that only change when it does something. */
class Stillness {
  using Clock = std::chrono::steady_clock;

 public:
  /** Returns the milliseconds since the counts last changed. */
  double update(uint64_t counts) {
    if (counts != counts_) {
      counts_ = counts;
      since_ = Clock::now();
    }
    return std::chrono::duration<double, std::milli>(Clock::now() - since_).count();
  }

 private:
  uint64_t counts_ = 0;
  Clock::time_point since_ = Clock::now();
};

} // namespace lorafit
