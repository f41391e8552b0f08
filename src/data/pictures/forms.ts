/** The forms of pictures, by name. A worker thread finds the form of its pictures here. */
import type { PictureForm } from "./form.ts";
import { type HdRules, KHD_RULES } from "./hdTiles/hdRules.ts";
import { hdForm } from "./hdTiles/hdTiles.ts";
import { tileForm } from "./internvlTiles/internvlTiles.ts";
import type { TileRules } from "./internvlTiles/tileRules.ts";
import { patchForm } from "./patches/patches.ts";
import type { PatchRules } from "./patches/patchRules.ts";

/** Makes each form from the rules of its model. */
export const PICTURE_FORMS = {
  hdTiles: hdForm,
  patches: patchForm,
  internvlTiles: tileForm,
} as const satisfies Record<string, (rules: never) => PictureForm>;

/** How a model lays out pictures: a form's name and its settings. Plain data, which a worker can have too. */
export type PictureRules = HdRules | PatchRules | TileRules;

/** The rules without a model. */
export const DEFAULT_RULES: PictureRules = KHD_RULES;

/** Returns the form of a model's pictures. */
export function pictureForm(rules: PictureRules): PictureForm {
  const make: (rules: never) => PictureForm = PICTURE_FORMS[rules.form];
  return make(rules as never);
}
