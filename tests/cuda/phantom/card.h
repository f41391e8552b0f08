// The phantom card: it has no memory and no arithmetic, only books of what was asked of it. See README.md.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace phantom {

/** Errors, by the numbers that CUDA's runtime and driver share. */
enum Error : int {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotReady = 600,
  kIllegalAddress = 700,
};

/** Facts that a real card's data sheet gives; read from the environment. */
struct Facts {
  std::string name;
  int major, minor;
  int multiprocessors;
  size_t memory_bytes;
  int cards; // number of such cards; a process uses one of them
};

const Facts& facts();

/** The calling thread's current device, by the runtime's number. */
int& current_device();

enum class Where { kPageable, kPinned, kDevice };

/** A queue of work. Only its length is known. */
struct Stream {
  struct Wait {
    uint64_t at;
    Stream* other;
    uint64_t until;
  };
  uint64_t queued = 0;
  uint64_t done = 0;
  std::deque<Wait> waits;
};

struct Event {
  Stream* stream = nullptr; // none before it is recorded
  uint64_t at = 0;
  double recorded_ms = 0;
};

struct Traffic {
  uint64_t count = 0;
  uint64_t bytes = 0;
};

/** The card that the process uses. Callers hold its mutex through a Turn. */
class Card {
 public:
  /**
   * Memory. The addresses are reserved but nothing lies there, so a host that reads a card's memory by
   * mistake crashes.
   */
  Error allocate(void** address, size_t bytes);
  Error free(void* address);
  Error reserve(void** address, size_t bytes);
  Error release(void* address, size_t bytes);
  Error create(uint64_t* segment, size_t bytes);
  Error map(void* address, size_t bytes, uint64_t segment);
  Error unmap(void* address, size_t bytes);
  Error destroy(uint64_t segment);
  size_t free_bytes() const;

  Error pin(void** address, size_t bytes);
  Error unpin(void* address);
  void register_host(void* address, size_t bytes);
  void unregister_host(void* address);
  Where where(const void* address) const;

  /** Work. */
  Stream* stream(void* handle);
  Error launch(void* stream, std::string_view kernel);
  Error product(void* stream, double flops, std::initializer_list<const void*> operands);
  Error copy(void* to, const void* from, size_t bytes, void* stream, bool waits);
  Error fill(void* to, size_t bytes, void* stream);
  void record(Event& event, void* stream);
  void wait(void* stream, const Event& event);
  bool done(const Event& event) const { return !event.stream || event.stream->done >= event.at; }
  bool done(void* stream);
  void synchronize(const Event& event);
  /**
   * Called without a Turn before a wait for an event. If this is the wait that PHANTOM_GATE counts, it lasts
   * until the named file exists.
   */
  void pass_gate();
  void synchronize(void* stream);
  void synchronize();

  /** Creates a context on the device if there is none yet. Called for everything that needs one. */
  void enter(int device) { contexts_.insert(device); }
  bool has_context(int device) const { return contexts_.contains(device); }
  /** Checks that there is a context, for calls to the driver itself, which create none. */
  void need_context(const char* what);

  /** Returns the error that every call reports once the card is lost; success before. */
  Error state() const { return lost_; }

  bool used() const { return launches_ > 0; }
  void write_report(const char* path) const;

  std::mutex mutex;

 private:
  struct Segment {
    size_t bytes = 0;
    int maps = 0;
    bool owned = true;
  };

  Error take(size_t bytes);
  Error on_device(const void* address, size_t bytes, const char* what);
  void queue(Stream& stream);
  void complete(Stream& stream, uint64_t until);
  void violation(std::string what);
  void wait_of(const char* kind) { ++waits_[kind]; }
  void suffer();

  std::map<uintptr_t, size_t> mapped_; // by start: addresses with memory behind them
  std::map<uintptr_t, uint64_t> maps_; // by start: the segment behind the addresses
  std::map<uint64_t, Segment> segments_;
  std::map<uintptr_t, size_t> pinned_, registered_;
  uint64_t next_segment_ = 1;
  size_t used_bytes_ = 0, peak_bytes_ = 0, others_bytes_ = 0;
  size_t pinned_bytes_ = 0, pinned_peak_bytes_ = 0;
  uint64_t pins_ = 0;
  std::atomic<uint64_t> event_waits_ = 0;
  std::set<int> contexts_;
  Stream default_stream_;
  std::map<void*, Stream*> streams_;
  std::map<std::string, uint64_t, std::less<>> kernels_;
  std::map<std::string, uint64_t> waits_;
  std::map<std::string, Traffic> traffic_;
  std::vector<std::string> violations_;
  uint64_t launches_ = 0, products_ = 0;
  double flops_ = 0;
  Error lost_ = kSuccess;
};

Card& card();

double now_ms();

} // namespace phantom
