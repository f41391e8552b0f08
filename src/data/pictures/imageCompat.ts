/**
 * Names the programs whose way of decoding and scaling pictures can be followed. Options are read before
 * anything is decoded, so this file loads no decoder.
 */

/**
 * lorafit: upright and on white, scaled as the family's own processor does by default. official: as stored,
 * alpha dropped. pil: as lorafit, but scaled by Pillow where the family's processor has both ways.
 */
export const IMAGE_COMPATS = ["lorafit", "official", "pil"] as const;

export type ImageCompat = (typeof IMAGE_COMPATS)[number];
