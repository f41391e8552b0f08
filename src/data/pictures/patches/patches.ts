/** Pictures as patches of any number of rows and columns, as Qwen2.5-VL and Qwen3-VL read them. */
import type { PictureForm } from "../form.ts";
import { maxPixelsLimit } from "./maxPixels.ts";
import {
  gridInWords,
  gridOf,
  gridOfUnits,
  largestGrid,
  type PatchGrid,
  squarestGrid,
  tokenSide,
} from "./patchGrid.ts";
import { blackPatches, loadPatches, pixelsOf } from "./patchPixels.ts";
import type { PatchRules } from "./patchRules.ts";

/** Returns the form of a model's pictures. */
export function patchForm(rules: PatchRules): PictureForm {
  const side = tokenSide(rules);
  return {
    limit: maxPixelsLimit(side ** 2, rules.maxPixels),
    layout: (source, limit, name = "the picture") => ({ ...gridOf(source, limit, rules, name), source }),
    placing: (size, limit) => ({ ...pixelsOf(gridOf(size, limit, rules, "the picture"), rules), side }),
    load: (path, limit, settings) => loadPatches(path, limit, rules, settings),
    largest: (limit) => largestGrid(limit, rules),
    within: (tokens) => (tokens >= 1 ? squarestGrid(tokens) : undefined),
    ofUnits: gridOfUnits,
    black: (layout) => blackPatches(layout as PatchGrid, rules),
    async preview(path, limit, compat) {
      const { drawPatches, patchesPng } = await import("./patchPreview.ts"); // no worker draws
      const picture = await loadPatches(path, limit, rules, { compat });
      const { rows, columns, tokens } = picture;
      return {
        facts: { ...pixelsOf(picture, rules), grid: { rows, columns }, tokens },
        words: gridInWords(picture, side),
        transformed: () => patchesPng(picture, rules),
        drawing: (caption) => drawPatches(picture, rules, caption),
      };
    },
  };
}
