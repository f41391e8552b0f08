/** Draws pictures with the tiles that the model sees, at a modest size. */
import { basename } from "node:path";
import sharp from "sharp";
import { limitOf } from "../../../data/pictures/limits.ts";
import { pictureName } from "../../../data/pictures/source.ts";
import { UserError } from "../../../errors.ts";
import { pictureFormOf } from "../../../models/families.ts";
import { withOpened } from "../../machine/openedModel.ts";
import type { TrainOptions } from "../../options/options.ts";

/** The file of a picture. */
export interface DrawnPicture {
  encoded: Uint8Array;
  width: number;
  height: number;
}

/** Neither side is longer. */
const MOST_PIXELS = 720;

/** Returns a function that draws a picture as a run sees it; undefined for one that can't be read. */
export function pictureDrawer(options: TrainOptions): (path: string) => Promise<DrawnPicture | undefined> {
  const form = withOpened(options.model, ({ config }) => pictureFormOf(config), options);
  const limit = limitOf(options, form.limit);
  const size = { width: MOST_PIXELS, height: MOST_PIXELS, fit: "inside", withoutEnlargement: true } as const;
  return async (path) => {
    try {
      const preview = await form.preview(path, limit, options.image_compat);
      const drawing = await preview.drawing(`${basename(pictureName(path))}: ${preview.words}`);
      const { data, info } = await sharp(drawing)
        .resize(size)
        .jpeg({ quality: 80 })
        .toBuffer({ resolveWithObject: true });
      return { encoded: data, width: info.width, height: info.height };
    } catch (thrown) {
      if (thrown instanceof UserError) return undefined; // the run itself reports a picture that is gone
      throw thrown;
    }
  };
}
