// Memory of cards: libtorch's caching allocator manages it and tells of every block, which is booked by category as on cpu.
#pragma once

#include "allocators.h"

namespace lorafit {

/** Before libtorch's CUDA half is loaded: segments of its caching allocator grow in place, unless the environment says otherwise. */
void configure_card_allocator();
/** From here on, blocks that this thread (and backward passes that it starts) allocates and frees on cards are booked. */
void book_cards();
/** The caching allocator of a card keeps to so many bytes of segments, used or not; nothing lifts the cap. */
void cap_card(c10::Device device, std::optional<int64_t> bytes);
/** The caching allocator's own peaks, reserved bytes among them, start anew at what it holds now. */
void reset_card_peaks(c10::Device device);
/** The facts of the last allocation that a card refused, once. */
std::optional<OutOfPool> take_card_refusal();

} // namespace lorafit
