#include "card.h"

#include <sys/mman.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace phantom {
namespace {

constexpr size_t kPageBytes = size_t{2} << 20; // a card's page
constexpr size_t kReadBackBytes = size_t{1} << 20; // largest copy to the host that writes anything: zeros, because no kernel computed
constexpr size_t kMostViolations = 100;

double number_of(const char* name, double otherwise) {
  const char* text = std::getenv(name);
  return text ? std::atof(text) : otherwise;
}

size_t whole_pages(size_t bytes) { return (bytes + kPageBytes - 1) / kPageBytes * kPageBytes; }

uintptr_t number(const void* address) { return reinterpret_cast<uintptr_t>(address); }

/** Returns a range of addresses without memory behind them. */
void* empty_range(size_t bytes) {
  // One page more than needed: if the start is not aligned as a card's memory is, the part before the first
  // aligned page stays unused.
  void* range = mmap(nullptr, bytes + kPageBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return nullptr;
  return reinterpret_cast<void*>(whole_pages(number(range)));
}

/** Tells whether `ranges` cover all of this range; ranges that touch count as one. */
bool holds(const std::map<uintptr_t, size_t>& ranges, uintptr_t start, size_t bytes) {
  const uintptr_t end = start + bytes;
  while (start < end) {
    auto next = ranges.upper_bound(start);
    if (next == ranges.begin()) return false;
    const auto& [from, length] = *std::prev(next);
    if (from + length <= start) return false;
    start = from + length;
  }
  return true;
}

bool touches(const std::map<uintptr_t, size_t>& ranges, const void* address) {
  return holds(ranges, number(address), 1);
}

/** Two numbers with a colon between them, for example "launches:bytes". */
struct Later {
  explicit Later(const char* name) {
    const char* text = std::getenv(name);
    if (!text) return;
    due = true;
    launches = std::strtoull(text, nullptr, 10);
    const char* rest = std::strchr(text, ':');
    value = rest ? std::strtoull(rest + 1, nullptr, 10) : 0;
  }
  bool due = false;
  uint64_t launches = 0, value = 0;
};

/** Returns the number of operations that a stream leaves undone until somebody waits for it. */
uint64_t lag() {
  static const auto operations = static_cast<uint64_t>(number_of("PHANTOM_LAG", 0));
  return operations;
}

std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') out += '\\';
    out += c;
  }
  return out + '"';
}

template <typename Map, typename Write>
void write_object(std::FILE* file, const char* name, const Map& map, Write write) {
  std::fprintf(file, "  %s: {", quoted(name).c_str());
  const char* comma = "";
  for (const auto& [key, value] : map) {
    std::fprintf(file, "%s\n    %s: ", comma, quoted(key).c_str());
    write(value);
    comma = ",";
  }
  std::fprintf(file, "\n  },\n");
}

__attribute__((destructor)) void leave_report() {
  const char* path = std::getenv("PHANTOM_REPORT");
  if (path && card().used()) card().write_report(path); // other programs of the run inherit the variable as well
}

} // namespace

double now_ms() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

const Facts& facts() {
  static const Facts* found = [] {
    const char* name = std::getenv("PHANTOM_NAME");
    const double capability = number_of("PHANTOM_CAPABILITY", 9.0);
    const int tenths = static_cast<int>(capability * 10 + 0.5);
    return new Facts{
        name ? name : "Phantom H100",
        tenths / 10,
        tenths % 10,
        static_cast<int>(number_of("PHANTOM_MULTIPROCESSORS", 132)),
        static_cast<size_t>(number_of("PHANTOM_MEMORY_BYTES", 80.0 * (1 << 30))),
        static_cast<int>(number_of("PHANTOM_CARDS", 1))};
  }();
  return *found;
}

int& current_device() {
  thread_local int device = 0;
  return device;
}

Card& card() {
  static auto* one = new Card; // never destroyed: libraries still call it while they shut down
  return *one;
}

// Memory.

Error Card::take(size_t bytes) {
  if (bytes > free_bytes()) return kOutOfMemory;
  used_bytes_ += bytes;
  peak_bytes_ = std::max(peak_bytes_, used_bytes_);
  return kSuccess;
}

size_t Card::free_bytes() const {
  static const auto context = static_cast<size_t>(number_of("PHANTOM_CONTEXT_BYTES", 512.0 * (1 << 20)));
  const size_t gone = used_bytes_ + others_bytes_ + context;
  return gone < facts().memory_bytes ? facts().memory_bytes - gone : 0;
}

Error Card::allocate(void** address, size_t bytes) {
  const size_t whole = whole_pages(bytes);
  if (const Error error = take(whole)) return error;
  *address = empty_range(whole);
  if (!*address) return kOutOfMemory;
  mapped_[number(*address)] = whole;
  return kSuccess;
}

Error Card::free(void* address) {
  if (!address) return kSuccess;
  const auto found = mapped_.find(number(address));
  if (found == mapped_.end()) return violation("memory is freed that was not allocated"), kInvalidValue;
  synchronize(); // as cudaFree does
  used_bytes_ -= found->second;
  munmap(address, found->second);
  mapped_.erase(found);
  return kSuccess;
}

Error Card::reserve(void** address, size_t bytes) {
  *address = empty_range(bytes);
  return *address ? kSuccess : kOutOfMemory;
}

Error Card::release(void* address, size_t bytes) {
  for (const auto& [start, length] : mapped_) {
    if (start < number(address) + bytes && number(address) < start + length)
      return violation("addresses are given back that are still mapped"), kInvalidValue;
  }
  munmap(address, bytes);
  return kSuccess;
}

Error Card::create(uint64_t* segment, size_t bytes) {
  if (bytes == 0 || bytes % kPageBytes != 0) return kInvalidValue;
  if (const Error error = take(bytes)) return error;
  *segment = next_segment_++;
  segments_[*segment] = {bytes};
  return kSuccess;
}

Error Card::map(void* address, size_t bytes, uint64_t segment) {
  const auto found = segments_.find(segment);
  if (found == segments_.end() || found->second.bytes != bytes) return kInvalidValue;
  if (touches(mapped_, address)) return violation("memory is mapped over other memory"), kInvalidValue;
  mapped_[number(address)] = bytes;
  maps_[number(address)] = segment;
  ++found->second.maps;
  return kSuccess;
}

Error Card::unmap(void* address, size_t bytes) {
  const auto found = maps_.find(number(address));
  if (found == maps_.end() || mapped_[number(address)] != bytes) return kInvalidValue;
  Segment& segment = segments_[found->second];
  --segment.maps;
  if (!segment.owned && segment.maps == 0) {
    used_bytes_ -= segment.bytes;
    segments_.erase(found->second);
  }
  mapped_.erase(number(address));
  maps_.erase(found);
  return kSuccess;
}

Error Card::destroy(uint64_t segment) {
  const auto found = segments_.find(segment);
  if (found == segments_.end()) return kInvalidValue;
  found->second.owned = false;
  if (found->second.maps > 0) return kSuccess; // the last unmap frees its memory
  used_bytes_ -= found->second.bytes;
  segments_.erase(found);
  return kSuccess;
}

Error Card::pin(void** address, size_t bytes) {
  static const auto refused = static_cast<uint64_t>(number_of("PHANTOM_PIN_REFUSED", 0));
  if (++pins_ == refused) return kOutOfMemory;
  void* range = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return kOutOfMemory;
  *address = range;
  pinned_[number(range)] = bytes;
  pinned_bytes_ += bytes;
  pinned_peak_bytes_ = std::max(pinned_peak_bytes_, pinned_bytes_);
  return kSuccess;
}

Error Card::unpin(void* address) {
  if (!address) return kSuccess;
  const auto found = pinned_.find(number(address));
  if (found == pinned_.end()) return violation("pinned memory is freed that was not allocated"), kInvalidValue;
  pinned_bytes_ -= found->second;
  munmap(address, found->second);
  pinned_.erase(found);
  return kSuccess;
}

void Card::register_host(void* address, size_t bytes) { registered_[number(address)] = bytes; }

void Card::unregister_host(void* address) { registered_.erase(number(address)); }

Where Card::where(const void* address) const {
  if (touches(mapped_, address)) return Where::kDevice;
  return touches(pinned_, address) || touches(registered_, address) ? Where::kPinned : Where::kPageable;
}

Error Card::on_device(const void* address, size_t bytes, const char* what) {
  if (holds(mapped_, number(address), std::max<size_t>(bytes, 1))) return kSuccess;
  violation(std::string(what) + " reaches beyond the card's memory");
  return kIllegalAddress;
}

// Work.

Stream* Card::stream(void* handle) {
  constexpr uintptr_t kPerThread = 2; // 1 and 2 name the two kinds of default stream
  if (number(handle) <= kPerThread) return &default_stream_;
  Stream*& known = streams_[handle];
  if (!known) known = new Stream;
  return known;
}

void Card::queue(Stream& stream) {
  ++stream.queued;
  if (stream.queued > lag()) complete(stream, stream.queued - lag());
}

void Card::complete(Stream& stream, uint64_t until) {
  if (until <= stream.done) return;
  stream.done = until;
  while (!stream.waits.empty() && stream.waits.front().at <= until) {
    const Stream::Wait wait = stream.waits.front();
    stream.waits.pop_front();
    complete(*wait.other, wait.until);
  }
}

Error Card::launch(void* handle, std::string_view kernel) {
  ++launches_;
  suffer();
  if (lost_) return lost_;
  queue(*stream(handle));
  const auto known = kernels_.find(kernel);
  if (known != kernels_.end()) {
    ++known->second;
  } else {
    kernels_.emplace(kernel, 1);
  }
  return kSuccess;
}

Error Card::product(void* handle, double flops, std::initializer_list<const void*> operands) {
  ++launches_;
  suffer();
  if (lost_) return lost_;
  for (const void* operand : operands) {
    if (const Error error = on_device(operand, 1, "an operand of a product")) return error;
  }
  queue(*stream(handle));
  ++products_;
  flops_ += flops;
  return kSuccess;
}

/** Checks whether a planned event is due: another process takes memory, or the card is lost. */
void Card::suffer() {
  static Later fill("PHANTOM_FILL"), loss("PHANTOM_LOST");
  if (fill.due && launches_ >= fill.launches) {
    fill.due = false;
    others_bytes_ = fill.value;
  }
  if (loss.due && launches_ >= loss.launches) {
    loss.due = false;
    lost_ = static_cast<Error>(loss.value);
  }
}

Error Card::copy(void* to, const void* from, size_t bytes, void* handle, bool waits) {
  if (lost_) return lost_;
  if (bytes == 0) return kSuccess;
  const Where target = where(to), source = where(from);
  if (target == Where::kDevice) {
    if (const Error error = on_device(to, bytes, "a copy's target")) return error;
  }
  if (source == Where::kDevice) {
    if (const Error error = on_device(from, bytes, "a copy's source")) return error;
  }
  Stream& queue_of = *stream(handle);
  queue(queue_of);
  const bool to_device = target == Where::kDevice, from_device = source == Where::kDevice;
  Traffic& traffic = traffic_[to_device ? (from_device ? "within" : "toDevice") : (from_device ? "toHost" : "host")];
  ++traffic.count;
  traffic.bytes += bytes;
  if (from_device && !to_device && bytes <= kReadBackBytes) std::memset(to, 0, bytes);
  if (!from_device && !to_device) std::memmove(to, from, bytes);
  const bool pageable = target == Where::kPageable || source == Where::kPageable;
  if (waits || pageable) {
    wait_of(waits ? "copy" : to_device ? "copy from pageable memory" : "copy to pageable memory");
    complete(queue_of, queue_of.queued);
  }
  return kSuccess;
}

Error Card::fill(void* to, size_t bytes, void* handle) {
  if (lost_) return lost_;
  if (bytes == 0) return kSuccess;
  if (const Error error = on_device(to, bytes, "a fill")) return error;
  queue(*stream(handle));
  ++traffic_["fills"].count;
  traffic_["fills"].bytes += bytes;
  return kSuccess;
}

void Card::record(Event& event, void* handle) {
  Stream& of = *stream(handle);
  event = {&of, of.queued, now_ms()};
}

void Card::wait(void* handle, const Event& event) {
  if (done(event)) return;
  Stream& waiting = *stream(handle);
  ++waiting.queued;
  waiting.waits.push_back({waiting.queued, event.stream, event.at});
}

bool Card::done(void* handle) {
  const Stream& of = *stream(handle);
  return of.done >= of.queued;
}

void Card::pass_gate() {
  static const Later gate("PHANTOM_GATE");
  if (!gate.due || ++event_waits_ != gate.launches) return;
  const std::string file = std::strchr(std::getenv("PHANTOM_GATE"), ':') + 1, reached = file + ".reached";
  std::fclose(std::fopen(reached.c_str(), "w"));
  while (access(file.c_str(), F_OK) != 0) usleep(1000);
}

void Card::synchronize(const Event& event) {
  wait_of("event");
  if (event.stream) complete(*event.stream, event.at);
}

void Card::synchronize(void* handle) {
  wait_of("stream");
  Stream& of = *stream(handle);
  complete(of, of.queued);
}

void Card::synchronize() {
  wait_of("device");
  complete(default_stream_, default_stream_.queued);
  for (const auto& [handle, of] : streams_) complete(*of, of->queued);
}

void Card::need_context(const char* what) {
  if (!has_context(current_device())) violation(std::string(what) + " without a context on the thread's device");
}

void Card::violation(std::string what) {
  if (violations_.size() < kMostViolations) violations_.push_back(std::move(what));
}

void Card::write_report(const char* path) const {
  std::FILE* file = std::fopen(path, "w");
  if (!file) return;
  const auto count = [file](uint64_t value) { std::fprintf(file, "%llu", static_cast<unsigned long long>(value)); };
  const auto both = [file](const Traffic& of) {
    std::fprintf(
        file, "{\"count\": %llu, \"bytes\": %llu}", static_cast<unsigned long long>(of.count),
        static_cast<unsigned long long>(of.bytes));
  };
  std::fprintf(file, "{\n");
  std::fprintf(file, "  \"peakBytes\": %zu,\n  \"pinnedPeakBytes\": %zu,\n", peak_bytes_, pinned_peak_bytes_);
  std::fprintf(file, "  \"contexts\": [");
  for (const int device : contexts_) std::fprintf(file, "%s%d", device == *contexts_.begin() ? "" : ", ", device);
  std::fprintf(file, "],\n");
  std::fprintf(file, "  \"launches\": %llu,\n", static_cast<unsigned long long>(launches_));
  std::fprintf(file, "  \"products\": %llu,\n", static_cast<unsigned long long>(products_));
  std::fprintf(file, "  \"productFlops\": %.0f,\n", flops_);
  write_object(file, "waits", waits_, count);
  write_object(file, "traffic", traffic_, both);
  write_object(file, "kernels", kernels_, count);
  std::fprintf(file, "  \"violations\": [");
  const char* comma = "";
  for (const std::string& violation : violations_) {
    std::fprintf(file, "%s\n    %s", comma, quoted(violation).c_str());
    comma = ",";
  }
  std::fprintf(file, "\n  ]\n}\n");
  std::fclose(file);
}

} // namespace phantom
