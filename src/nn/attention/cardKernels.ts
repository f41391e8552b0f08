/** Names of attention kernels. Options are read before the engine is built, so this file must not load it. */

/** Kernels of cards; some cards lack some. "products" are matrix products with softmax between. */
export const CARD_KERNELS = ["flash", "cudnn", "efficient", "products"] as const;
export type CardKernel = (typeof CARD_KERNELS)[number];
