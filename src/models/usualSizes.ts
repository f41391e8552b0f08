/**
 * Sizes that steps and answers have unless told otherwise. Policies are read before the engine is built, so
 * this file must not load it.
 */

/** Rows that the MLP computes at a time. */
export const USUAL_MLP_TILE_TOKENS = 2048;

/** Units of a picture that the vision tower encodes at a time. */
export const USUAL_VISION_BATCH = 4;
