/** Pictures as a grid of tiles and a global view, as InternLM-XComposer2-4KHD reads them. */
import { formatCount } from "../../../errors.ts";
import type { PictureForm } from "../form.ts";
import { gridOfTokens, hdGrid, largestGrid, type TileGrid, tileGrid } from "./hdGrid.ts";
import { blackImage, loadHdImage } from "./hdImage.ts";
import { HD_NUM } from "./hdNum.ts";

export const HD_TILES = {
  limit: HD_NUM,
  layout({ width, height }, hdNum, name) {
    const { rows, cols, source } = hdGrid(width, height, hdNum, name);
    return { ...tileGrid(rows, cols), source };
  },
  placing({ width, height }, hdNum) {
    const { source: _, units: __, ...placed } = hdGrid(width, height, hdNum);
    return placed;
  },
  load: (path, hdNum, { compat, maxPixels }) => loadHdImage(path, hdNum, compat, { maxPixels }),
  largest: largestGrid,
  within: gridOfTokens,
  ofUnits: (units) => tileGrid(units - 1, 1), // the global view is one of them
  black: (layout) => blackImage(layout as TileGrid),
  async preview(path, hdNum, compat) {
    const { drawPreview, transformedPng } = await import("./hdPreview.ts"); // no worker draws
    const image = await loadHdImage(path, hdNum, compat);
    const grid = hdGrid(image.source.width, image.source.height, hdNum, path);
    const { rows, cols, width, height, tokens } = grid;
    return {
      facts: { width, height, grid: { rows, cols }, tokens },
      words: `${rows} x ${cols} tiles, ${width} x ${height}, ${formatCount(tokens)} tokens`,
      transformed: () => transformedPng(image),
      drawing: (caption) => drawPreview(image, grid, { caption }),
    };
  },
} satisfies PictureForm;
