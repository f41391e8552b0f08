/** How the models of the XComposer line cut pictures into tiles. */

/** Pixels along the side of a token: patches of 14 pixels are merged two by two. */
export const TOKEN_PIXELS = 28;

/** Plain data; without a value, as InternLM-XComposer2-4KHD does it. */
export interface HdRules {
  form: "hdTiles";
  /** Width and height of a tile in pixels. */
  tilePixels?: number;
  /** Most times that the longer side is enlarged, rounded up to whole tiles; default: no bound but hd_num. */
  mostEnlarged?: number;
  /** Number of tiles that is usual for training. */
  usualTiles?: number;
}

export const KHD_RULES: HdRules = { form: "hdTiles" };

/**
 * InternLM-XComposer2.5, as it is fine-tuned. Source: InternLM-XComposer, finetune/ixc_utils.py of 2.5:
 * R560_HD18.
 */
export const XCOMPOSER2_5_RULES: HdRules = {
  form: "hdTiles",
  tilePixels: 560,
  mostEnlarged: 1.5,
  usualTiles: 18,
};

export function tilePixelsOf({ tilePixels = 336 }: HdRules): number {
  return tilePixels;
}

/** Returns the tokens along a tile's side. */
export function tileSideTokens(rules: HdRules): number {
  return tilePixelsOf(rules) / TOKEN_PIXELS;
}
