/** Pictures as a grid of tiles and a global view, as the models of the XComposer line read them. */
import { formatCount } from "../../../errors.ts";
import type { PictureForm } from "../form.ts";
import { gridOfTokens, hdGrid, largestGrid, type TileGrid, tileGrid } from "./hdGrid.ts";
import { blackImage, loadHdImage } from "./hdImage.ts";
import { HD_NUM } from "./hdNum.ts";
import { type HdRules, KHD_RULES } from "./hdRules.ts";

/** Returns the form of a model's pictures. */
export function hdForm(rules: HdRules) {
  return {
    limit: { ...HD_NUM, default: rules.usualTiles ?? HD_NUM.default },
    layout({ width, height }, hdNum, name) {
      const { rows, cols, source } = hdGrid(width, height, hdNum, name, rules);
      return { ...tileGrid(rows, cols, rules), source };
    },
    placing({ width, height }, hdNum) {
      const { source: _, units: __, ...placed } = hdGrid(width, height, hdNum, undefined, rules);
      return placed;
    },
    load: (path, hdNum, { compat, maxPixels }) => loadHdImage(path, hdNum, compat, { maxPixels, rules }),
    largest: (hdNum) => largestGrid(hdNum, rules),
    within: (tokens) => gridOfTokens(tokens, rules),
    ofUnits: (units) => tileGrid(units - 1, 1, rules), // the global view is one of them
    black: (layout) => blackImage(layout as TileGrid, rules),
    async preview(path, hdNum, compat) {
      const { drawPreview, transformedPng } = await import("./hdPreview.ts"); // no worker draws
      const image = await loadHdImage(path, hdNum, compat, { rules });
      const grid = hdGrid(image.source.width, image.source.height, hdNum, path, rules);
      const { rows, cols, width, height, tokens } = grid;
      return {
        facts: { width, height, grid: { rows, cols }, tokens },
        words: `${rows} x ${cols} tiles, ${width} x ${height}, ${formatCount(tokens)} tokens`,
        transformed: () => transformedPng(image),
        drawing: (caption) => drawPreview(image, grid, { caption }),
      };
    },
  } satisfies PictureForm;
}

/** The form of InternLM-XComposer2-4KHD. */
export const HD_TILES = hdForm(KHD_RULES);
