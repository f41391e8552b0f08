/** The forms of pictures, by name. A worker thread finds the form of its pictures here. */
import type { PictureForm } from "./form.ts";
import { HD_TILES } from "./hdTiles/hdTiles.ts";

/** Makes each form from the rules of its model. */
export const PICTURE_FORMS = {
  hdTiles: () => HD_TILES,
} as const satisfies Record<string, (rules: never) => PictureForm>;

/** How a model lays out pictures: a form's name and its settings. Plain data, which a worker can have too. */
export interface PictureRules {
  form: keyof typeof PICTURE_FORMS;
}

/** The rules without a model. */
export const DEFAULT_RULES: PictureRules = { form: "hdTiles" };

/** Returns the form of a model's pictures. */
export function pictureForm(rules: PictureRules): PictureForm {
  return PICTURE_FORMS[rules.form]();
}
