/** Draws a picture of tiles: in the form that the model reads, and with its tiles drawn in. */
import sharp, { type Sharp } from "sharp";
import { rect, svgDocument } from "../../../drawing/svg.ts";
import { formatCount } from "../../../errors.ts";
import { ACCENT, badge, drawWords, gridLines, PAPER } from "../previewParts.ts";
import type { Raster } from "../resize.ts";
import { canvasRaster, type TiledPicture, tileRaster } from "./tilePixels.ts";
import type { TileRules } from "./tileRules.ts";

const LONG_SIDE_PIXELS = 1680;
const MARGIN_PIXELS = 36;
const THUMBNAIL_PIXELS = 224;
const WORDS_PIXELS = 720;

/** Returns a PNG of exactly the pixels that the tiles are cut from. */
export function canvasPng(picture: TiledPicture, rules: TileRules): Promise<Buffer> {
  return png(canvasRaster(picture, rules)).toBuffer();
}

/** Returns the preview as PNG: the scaled picture with numbered tiles, and above it the thumbnail. */
export async function drawTiles(picture: TiledPicture, rules: TileRules, caption: string): Promise<Buffer> {
  const { rows, columns, units, tokens } = picture;
  const tilePixels = Math.min(rules.tilePixels, Math.floor(LONG_SIDE_PIXELS / Math.max(rows, columns)));
  const box = {
    ...{ left: MARGIN_PIXELS, top: 2 * MARGIN_PIXELS + THUMBNAIL_PIXELS },
    ...{ width: columns * tilePixels, height: rows * tilePixels },
  };
  const inner = Math.max(box.width, WORDS_PIXELS + MARGIN_PIXELS + THUMBNAIL_PIXELS);
  const whole = { width: inner + 2 * MARGIN_PIXELS, height: box.top + box.height + MARGIN_PIXELS };
  const thumbnail = { left: MARGIN_PIXELS + inner - THUMBNAIL_PIXELS, top: MARGIN_PIXELS };
  const isTiled = units > 1;
  const words = {
    caption,
    size: `${rows} x ${columns} ${rows * columns === 1 ? "tile" : "tiles"} of ${rules.tilePixels} pixels`,
    tokens: `${formatCount(tokens)} image tokens`,
    remarks: [
      `${formatCount(units)} x ${rules.tileTokens} tokens${isTiled ? ", the thumbnail among them" : ""}`,
    ],
  };
  const places = (count: number): number[] => Array.from({ length: count + 1 }, (_, at) => at * tilePixels);
  const drawn = [
    drawWords(words, MARGIN_PIXELS, MARGIN_PIXELS, thumbnail.left - 2 * MARGIN_PIXELS),
    gridLines(box, { across: places(rows), down: places(columns) }),
    ...Array.from({ length: rows * columns }, (_, tile) =>
      badge(
        `${tile + 1}`,
        box.left + (tile % columns) * tilePixels,
        box.top + Math.floor(tile / columns) * tilePixels,
        Math.max(9, Math.min(24, tilePixels * 0.16)),
      ),
    ),
    ...(isTiled ? [frameOf(thumbnail)] : []),
  ];
  const scaled = await png(canvasRaster(picture, rules)).toBuffer();
  return sharp({ create: { ...whole, channels: 3, background: PAPER } })
    .composite([
      { input: await sharp(scaled).resize(box.width, box.height, { fit: "fill" }).png().toBuffer(), ...box },
      ...(isTiled ? [{ input: await smallThumbnail(picture, rules), ...thumbnail }] : []),
      { input: Buffer.from(svgDocument(whole, drawn.join(""))), left: 0, top: 0 },
    ])
    .removeAlpha()
    .png()
    .toBuffer();
}

function frameOf({ left: x, top: y }: { left: number; top: number }): string {
  const side = THUMBNAIL_PIXELS;
  const frame = rect({ x, y, width: side, height: side }, { stroke: ACCENT, strokePixels: 3 });
  return frame + badge("thumbnail", x, y, 18);
}

function smallThumbnail(picture: TiledPicture, rules: TileRules): Promise<Buffer> {
  return png(tileRaster(picture, picture.units - 1, rules))
    .resize(THUMBNAIL_PIXELS)
    .toBuffer();
}

function png({ width, height, pixels }: Raster): Sharp {
  return sharp(pixels, { raw: { width, height, channels: 3 } }).png();
}
