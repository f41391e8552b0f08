// Memory of cards. libtorch's caching allocator manages it and reports every block; each block is booked by
// category as on cpu.
#pragma once

#include "allocators.h"

namespace lorafit {

/**
 * Makes segments of libtorch's caching allocator grow in place, unless the environment says otherwise. Call
 * before libtorch's CUDA half is loaded.
 */
void configure_card_allocator();
/**
 * Starts booking the card blocks that this thread (and backward passes that it starts) allocates and frees.
 */
void book_cards();
/**
 * Limits a card's caching allocator to so many bytes of segments, used or not; undefined: all of the card's
 * memory.
 */
void cap_card(c10::Device device, std::optional<int64_t> bytes);
/** Resets the caching allocator's own peaks, also of reserved bytes, to its current values. */
void reset_card_peaks(c10::Device device);
/** Returns the facts of the last allocation that a card refused, and forgets them. */
std::optional<OutOfPool> take_card_refusal();

} // namespace lorafit
