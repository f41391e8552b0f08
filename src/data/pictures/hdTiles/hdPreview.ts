/** Draws a transformed picture: in the form that the model reads, and in a form that a person understands. */
import sharp from "sharp";
import { type Box, rect, svgDocument } from "../../../drawing/svg.ts";
import { formatCount } from "../../../errors.ts";
import { ACCENT, badge, drawWords, gridLines, PAPER, QUIET } from "../previewParts.ts";
import { PIXEL_MEAN, PIXEL_STD } from "./globalView.ts";
import type { HdGrid } from "./hdGrid.ts";
import type { HdImage } from "./hdImage.ts";
import { TOKEN_PIXELS } from "./hdRules.ts";

/** Returns a PNG of exactly the pixels that the tiles are cut from. */
export function transformedPng(image: HdImage): Promise<Buffer> {
  return sharp(image.pixels, { raw: rawSize(image) })
    .png()
    .toBuffer();
}

const LONG_SIDE_PIXELS = 1680;
const MARGIN_PIXELS = 36;
const GLOBAL_VIEW_PIXELS = 224;
const CAPTION_PIXELS = 720;

/** Places of the parts of a preview, in its pixels. */
interface Layout {
  width: number;
  height: number;
  picture: { left: number; top: number; width: number; height: number };
  globalView: { left: number; top: number };
  tilePixels: number;
}

/**
 * Returns the preview as PNG: the padded picture with tile borders and tile numbers in reading order, and
 * above it the caption, grid, tokens and global view. The first line of the caption (the file's name) is its
 * title.
 */
export async function drawPreview(
  image: HdImage,
  grid: HdGrid,
  { caption }: { caption: string },
): Promise<Buffer> {
  const layout = layOut(grid);
  const { width, height, picture, globalView } = layout;
  return sharp({ create: { width, height, channels: 3, background: PAPER } })
    .composite([
      { input: await scaledPicture(image, picture), left: picture.left, top: picture.top },
      { input: await globalViewPng(image), left: globalView.left, top: globalView.top },
      { input: Buffer.from(overlay(grid, layout, caption)), left: 0, top: 0 },
    ])
    .removeAlpha()
    .png()
    .toBuffer();
}

function layOut({ rows, cols, width }: HdGrid): Layout {
  const tilePixels = Math.min(width / cols, Math.floor(LONG_SIDE_PIXELS / Math.max(rows, cols)));
  const inner = Math.max(cols * tilePixels, CAPTION_PIXELS + MARGIN_PIXELS + GLOBAL_VIEW_PIXELS);
  const pictureTop = MARGIN_PIXELS + GLOBAL_VIEW_PIXELS + MARGIN_PIXELS;
  return {
    tilePixels,
    width: inner + 2 * MARGIN_PIXELS,
    height: pictureTop + rows * tilePixels + MARGIN_PIXELS,
    picture: { left: MARGIN_PIXELS, top: pictureTop, width: cols * tilePixels, height: rows * tilePixels },
    globalView: { left: MARGIN_PIXELS + inner - GLOBAL_VIEW_PIXELS, top: MARGIN_PIXELS },
  };
}

function scaledPicture(
  image: HdImage,
  { width, height }: { width: number; height: number },
): Promise<Buffer> {
  return sharp(image.pixels, { raw: rawSize(image) })
    .resize(width, height, { fit: "fill" })
    .png({ compressionLevel: 1 })
    .toBuffer();
}

/** Returns the global view as a person sees it, without the normalisation. */
function globalViewPng({ globalView }: HdImage): Promise<Buffer> {
  const area = globalView.length / 3;
  const side = Math.sqrt(area);
  const pixels = Uint8ClampedArray.from({ length: 3 * area }, (_, i) => {
    const channel = i % 3;
    const value = globalView[channel * area + Math.floor(i / 3)] ?? 0;
    return 255 * (value * (PIXEL_STD[channel] ?? 1) + (PIXEL_MEAN[channel] ?? 0));
  });
  return sharp(pixels, { raw: { width: side, height: side, channels: 3 } })
    .resize(GLOBAL_VIEW_PIXELS)
    .png()
    .toBuffer();
}

function overlay(grid: HdGrid, layout: Layout, caption: string): string {
  const { width, height, globalView } = layout;
  const { left: x, top: y } = globalView;
  const side = GLOBAL_VIEW_PIXELS;
  const parts = [
    wordsBeside(grid, layout, caption),
    ...paddingHatch(grid, layout),
    tileBorders(grid, layout),
    ...tileNumbers(grid, layout),
    rect({ x, y, width: side, height: side }, { stroke: ACCENT, strokePixels: 3 }),
    badge("global view", x, y, 18),
  ];
  return svgDocument({ width, height }, HATCH + parts.join(""));
}

function wordsBeside(grid: HdGrid, { globalView }: Layout, caption: string): string {
  const { rows, cols, width, height, tokens } = grid;
  const tiles = rows * cols;
  const side = width / cols / TOKEN_PIXELS;
  const padding = grid.padTop + grid.padBottom + grid.padLeft + grid.padRight;
  const words = {
    caption,
    size: `${rows} x ${cols} ${tiles === 1 ? "tile" : "tiles"} of ${width / cols} pixels: ${width} x ${height}`,
    tokens: `${formatCount(tokens)} image tokens`,
    remarks: [
      `${formatCount(tiles * side ** 2)} tiles + ${side ** 2} global view + ${(rows + 1) * side} row ends + 1 between them`,
      padding === 0 ? "no padding" : `hatched: ${padding} pixels of white padding`,
    ],
  };
  return drawWords(words, MARGIN_PIXELS, MARGIN_PIXELS, globalView.left - 2 * MARGIN_PIXELS);
}

const HATCH =
  '<defs><pattern id="hatch" width="12" height="12" ' +
  'patternUnits="userSpaceOnUse" patternTransform="rotate(45)">' +
  rect({ x: 0, y: 0, width: 12, height: 12 }, { fill: QUIET, opacity: 0.1 }) +
  rect({ x: 0, y: 0, width: 2, height: 12 }, { fill: QUIET, opacity: 0.35 }) +
  "</pattern></defs>";

function paddingHatch(grid: HdGrid, { picture, tilePixels }: Layout): string[] {
  const scale = (tilePixels * grid.cols) / grid.width;
  const [above, below] = [grid.padTop * scale, grid.padBottom * scale];
  const [before, behind] = [grid.padLeft * scale, grid.padRight * scale];
  const { left: x, top: y, width, height } = picture;
  const areas: Box[] = [
    { x, y, width, height: above },
    { x, y: y + height - below, width, height: below },
    { x, y, width: before, height },
    { x: x + width - behind, y, width: behind, height },
  ];
  return areas.map((area) => rect(area, { fill: "url(#hatch)" }));
}

function tileBorders({ rows, cols }: HdGrid, { picture, tilePixels }: Layout): string {
  const places = (count: number): number[] => Array.from({ length: count + 1 }, (_, at) => at * tilePixels);
  return gridLines(picture, { across: places(rows), down: places(cols) });
}

function tileNumbers({ rows, cols }: HdGrid, { picture, tilePixels }: Layout): string[] {
  const sizePixels = Math.max(9, Math.min(24, tilePixels * 0.16));
  return Array.from({ length: rows * cols }, (_, tile) => {
    const x = picture.left + (tile % cols) * tilePixels;
    const y = picture.top + Math.floor(tile / cols) * tilePixels;
    return badge(`${tile + 1}`, x, y, sizePixels);
  });
}

function rawSize({ rows, cols, globalView }: HdImage): { width: number; height: number; channels: 3 } {
  const side = Math.sqrt(globalView.length / 3);
  return { width: cols * side, height: rows * side, channels: 3 };
}
