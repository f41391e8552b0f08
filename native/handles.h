// Slots with generations: a JavaScript number names a C++ object, and the number of a freed object is
// recognised.
#pragma once

#include <ATen/core/Generator.h>
#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

namespace lorafit {

/**
 * Objects named by doubles: generation * 2^22 + slot, exact below 2^53. Zero names nothing. For one thread.
 */
template <typename T>
class SlotTable {
 public:
  /** Moves a value in, and returns its handle. */
  double insert(T value) {
    if (free_.empty()) {
      TORCH_CHECK(slots_.size() < kSlots, "more than ", kSlots, " objects are alive at once");
      slots_.emplace_back();
      free_.push_back(static_cast<uint32_t>(slots_.size() - 1));
    }
    const uint32_t index = free_.back();
    free_.pop_back();
    Slot& slot = slots_[index];
    slot.value = std::move(value);
    slot.used = true;
    ++live_;
    return static_cast<double>(slot.generation * kSlots + index);
  }

  /** Returns the object of a handle; nullptr if there is none, or none any more. */
  T* find(double handle) {
    if (!(handle >= kSlots && handle < 9007199254740992.0)) return nullptr;
    const auto bits = static_cast<uint64_t>(handle);
    const uint64_t index = bits % kSlots;
    if (index >= slots_.size()) return nullptr;
    Slot& slot = slots_[index];
    return slot.used && slot.generation == bits / kSlots ? &slot.value : nullptr;
  }

  /**
   * Frees the object of a handle; false if there is none. A slot that has used all its generations is not
   * reused.
   */
  bool erase(double handle) {
    if (!find(handle)) return false;
    const auto index = static_cast<uint32_t>(static_cast<uint64_t>(handle) % kSlots);
    Slot& slot = slots_[index];
    T dying = std::move(slot.value);
    slot.value = T();
    slot.used = false;
    --live_;
    if (++slot.generation < kGenerations) free_.push_back(index);
    return true;
  }

  size_t live() const { return live_; }

 private:
  static constexpr uint64_t kSlots = 1ull << 22;
  static constexpr uint64_t kGenerations = 1ull << 31;
  struct Slot {
    T value{};
    uint64_t generation = 1;
    bool used = false;
  };
  std::vector<Slot> slots_;
  std::vector<uint32_t> free_;
  size_t live_ = 0;
};

inline SlotTable<at::Tensor>& tensors() {
  static auto* table = new SlotTable<at::Tensor>; // outlives libtorch's own statics
  return *table;
}

inline SlotTable<at::Generator>& generators() {
  static auto* table = new SlotTable<at::Generator>;
  return *table;
}

} // namespace lorafit
