/** Pictures as a grid of tiles with a thumbnail, as InternVL2.5, 3 and 3.5 read them. */
import { formatCount } from "../../../errors.ts";
import type { PictureForm } from "../form.ts";
import { maxTilesLimit } from "./maxTiles.ts";
import { gridOf, gridOfTokens, gridOfUnits, largestGrid, type ThumbnailGrid } from "./tileGrid.ts";
import { blackTiles, loadTiles } from "./tilePixels.ts";
import type { TileRules } from "./tileRules.ts";

/** Returns the form of a model's pictures. */
export function tileForm(rules: TileRules): PictureForm {
  return {
    limit: maxTilesLimit(rules.maxTiles, rules.isWhole ? 1 : undefined),
    layout: (source, limit) => ({ ...gridOf(source, limit, rules), source }),
    placing(size, limit) {
      const { rows, columns } = gridOf(size, limit, rules);
      return { rows, columns, tilePixels: rules.tilePixels };
    },
    load: (path, limit, settings) => loadTiles(path, limit, rules, settings),
    largest: (limit) => largestGrid(limit, rules),
    within: (tokens) => gridOfTokens(tokens, rules),
    ofUnits: (units) => gridOfUnits(units, rules),
    black: (layout) => blackTiles(layout as ThumbnailGrid, rules),
    async preview(path, limit, compat) {
      const { canvasPng, drawTiles } = await import("./tilePreview.ts"); // no worker draws
      const picture = await loadTiles(path, limit, rules, { compat });
      const { rows, columns, tokens, units } = picture;
      const [width, height] = [columns * rules.tilePixels, rows * rules.tilePixels];
      return {
        facts: { width, height, grid: { rows, columns }, tiles: units, tokens },
        words: `${rules.isWhole ? "one square" : `${rows} x ${columns} tiles`}${units > 1 ? " and a thumbnail" : ""}, ${width} x ${height}, ${formatCount(tokens)} tokens`,
        transformed: () => canvasPng(picture, rules),
        drawing: (caption) => drawTiles(picture, rules, caption),
      };
    },
  };
}
