/** Draws a picture of patches: in the form that the model reads, and with its windows drawn in. */
import sharp from "sharp";
import { svgDocument } from "../../../drawing/svg.ts";
import { formatCount } from "../../../errors.ts";
import { drawWords, gridLines, PAPER } from "../previewParts.ts";
import { tokenSide } from "./patchGrid.ts";
import { type PatchPicture, rasterOf } from "./patchPixels.ts";
import type { PatchRules } from "./patchRules.ts";

const LONG_SIDE_PIXELS = 1680;
const MARGIN_PIXELS = 36;
const WORDS_PIXELS = { width: 720, height: 190 };

/** Pixels of a token in a drawing, from which on each token is drawn. */
const VISIBLE_TOKEN_PIXELS = 12;

/** Returns a PNG of exactly the pixels that the patches are cut from. */
export function patchesPng(picture: PatchPicture, rules: PatchRules): Promise<Buffer> {
  const { width, height, pixels } = rasterOf(picture, rules);
  return sharp(pixels, { raw: { width, height, channels: 3 } })
    .png()
    .toBuffer();
}

/**
 * Returns the preview as PNG: the scaled picture with the borders of its windows, or of its tokens if the
 * tower has no windows.
 */
export async function drawPatches(
  picture: PatchPicture,
  rules: PatchRules,
  caption: string,
): Promise<Buffer> {
  const { rows, columns, tokens } = picture;
  const side = tokenSide(rules);
  const [wide, high] = [columns * side, rows * side];
  const scale = Math.min(1, LONG_SIDE_PIXELS / Math.max(wide, high));
  const [width, height] = [Math.max(1, Math.round(wide * scale)), Math.max(1, Math.round(high * scale))];
  const box = { left: MARGIN_PIXELS, top: 2 * MARGIN_PIXELS + WORDS_PIXELS.height, width, height };
  const whole = {
    width: Math.max(width, WORDS_PIXELS.width) + 2 * MARGIN_PIXELS,
    height: box.top + height + MARGIN_PIXELS,
  };
  const step = Math.round((rules.windowPixels ?? side) / side);
  const words = {
    caption,
    size: `${rows} x ${columns} tokens of ${side} pixels: ${wide} x ${high}`,
    tokens: `${formatCount(tokens)} image tokens`,
    remarks: [windowsInWords(picture, rules)],
  };
  const lines = isVisible(step * side * scale)
    ? gridLines(box, { across: places(rows, step, side * scale), down: places(columns, step, side * scale) })
    : "";
  const drawn = drawWords(words, MARGIN_PIXELS, MARGIN_PIXELS, whole.width - 2 * MARGIN_PIXELS) + lines;
  const scaled = await sharp(await patchesPng(picture, rules))
    .resize(width, height, { fit: "fill" })
    .png()
    .toBuffer();
  return sharp({ create: { ...whole, channels: 3, background: PAPER } })
    .composite([
      { input: scaled, left: box.left, top: box.top },
      { input: Buffer.from(svgDocument(whole, drawn)), left: 0, top: 0 },
    ])
    .removeAlpha()
    .png()
    .toBuffer();
}

const isVisible = (stepPixels: number): boolean => stepPixels >= VISIBLE_TOKEN_PIXELS;

/** Returns the places of lines, in the drawing's pixels, with one behind the last token. */
function places(count: number, step: number, pixelsOfToken: number): number[] {
  const inner = Array.from({ length: Math.ceil(count / step) }, (_, at) => at * step * pixelsOfToken);
  return [...inner, count * pixelsOfToken].map(Math.round);
}

function windowsInWords({ rows, columns }: PatchPicture, rules: PatchRules): string {
  const side = tokenSide(rules);
  if (rules.windowPixels === undefined) return "every patch attends to the whole picture";
  const step = Math.round(rules.windowPixels / side);
  const windows = Math.ceil(rows / step) * Math.ceil(columns / step);
  return `${formatCount(windows)} windows of up to ${step} x ${step} tokens (${rules.windowPixels} pixels)`;
}
