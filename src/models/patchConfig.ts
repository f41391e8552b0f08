/** Parts of config.json that the Qwen-VL line has in common: the tower of patches and its pictures. */
import { type PatchRules, readPatchRules } from "../data/pictures/patches/patchRules.ts";
import { UserError } from "../errors.ts";
import { processorFile } from "./configJson.ts";

const FIX = { fix: "Check that the configuration belongs to this checkpoint." };

/** Refuses heads that can't turn by row and column, and tokens that are not as wide as the decoder. */
export function checkPatchTower(
  { hidden, heads }: { hidden: number; heads: number },
  widths: { tower: number; decoder: number },
  place: string,
): void {
  if (hidden % (4 * heads) !== 0)
    throw new UserError(`${place}: 4 x ${heads} heads do not divide hidden_size ${hidden}.`, FIX);
  if (widths.tower !== widths.decoder)
    throw new UserError(
      `${place}: out_hidden_size ${widths.tower} is not hidden_size ${widths.decoder}.`,
      FIX,
    );
}

/** Reads how a checkpoint lays out pictures. published: values for its tower, where the file has none. */
export function readPatchPictures(folder: string, published: PatchRules): PatchRules {
  const { file, json } = processorFile(folder);
  const { patchPixels, mergeSide } = published;
  const rules = readPatchRules(json, file, published);
  if (rules.patchPixels === patchPixels && rules.mergeSide === mergeSide) return rules;
  throw new UserError(
    `${file}: patches of ${rules.patchPixels} pixels, ${rules.mergeSide} along a token, are not those of config.json: ${patchPixels} and ${mergeSide}.`,
    { fix: "Download both files again; they belong together." },
  );
}
