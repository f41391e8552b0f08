/**
 * Picture files to RGB. "official" does as the official code's Image.open(path).convert("RGB"): alpha is
 * dropped and the EXIF orientation ignored. "lorafit" shows the model what a person sees: the picture
 * upright, on white. Both ignore colour profiles, as the pictures that the model was trained on were read
 * without them.
 */
import { stat } from "node:fs/promises";
import sharp, { type Metadata, type Sharp } from "sharp";
import { formatCount, messageOf, UserError } from "../../errors.ts";
import { looksWhole } from "./looksWhole.ts";
import type { Raster } from "./resize.ts";
import { isEmbedded, pictureInput, pictureName } from "./source.ts";

export type ImageCompat = "lorafit" | "official";

/**
 * 256 Mi pixels, 768 MiB decoded: far above any page, far below what a few kilobytes of a hostile PNG can
 * claim.
 */
export const MAX_PIXELS = 2 ** 28;

sharp.cache(false); // a file that was replaced must not come back from libvips' cache

/** Reads a picture in any format that sharp knows; throws a UserError that names the file. */
export async function decodeImage(
  path: string,
  { compat, maxPixels = MAX_PIXELS }: { compat: ImageCompat; maxPixels?: number | undefined },
): Promise<Raster> {
  const header = await readHeader(path);
  if (header.width * header.height > maxPixels) {
    throw new UserError(
      `${pictureName(path)}: ${header.width} x ${header.height} pixels are more than ` +
        `the limit of ${formatCount(maxPixels)}.`,
      { fix: "Scale the picture down: the model sees at most 336 x 336 pixels a tile." },
    );
  }
  return readable(path, async () => {
    const picture = sharp(pictureInput(path), {
      ignoreIcc: true,
      limitInputPixels: maxPixels,
      failOn: "error",
    });
    const shown =
      compat === "official" ? picture.removeAlpha() : picture.autoOrient().flatten({ background: "white" });
    if (header.space !== "cmyk") return rasterOf(shown.toColourspace("srgb"));
    return inkToRgb(await rasterOf(shown.pipelineColourspace("cmyk").toColourspace("cmyk")));
  });
}

/** The header of a picture file; nothing is decoded. */
export function readHeader(path: string): Promise<Metadata> {
  return readable(path, () => sharp(pictureInput(path), { limitInputPixels: false }).metadata());
}

/** Throws a UserError for a file that is cut off. Decodes those alone that look so: all of a data set would take minutes. */
export async function refuseCutOff(path: string, compat: ImageCompat): Promise<void> {
  if (!(await readable(path, () => looksWhole(path)))) await decodeImage(path, { compat });
}

async function rasterOf(picture: Sharp): Promise<Raster> {
  const { data, info } = await picture.raw().toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, pixels: data };
}

/** CMYK to RGB without a profile. Source: Pillow, src/libImaging/Convert.c, cmyk2rgb. */
function inkToRgb({ width, height, pixels: inks }: Raster): Raster {
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    const light = 255 - (inks[from + 3] as number);
    for (let channel = 0; channel < 3; channel++) {
      pixels[to + channel] = light - Math.round(((inks[from + channel] as number) * light) / 255);
    }
  }
  return { width, height, pixels };
}

/** Runs a read of a picture; what Node and libvips throw becomes a UserError that names the file. */
async function readable<T>(path: string, read: () => Promise<T>): Promise<T> {
  try {
    if (!isEmbedded(path)) await refuseOtherThings(path);
    return await read();
  } catch (thrown) {
    if (thrown instanceof UserError) throw thrown;
    throw new UserError(`${pictureName(path)}: this picture can't be read (${reason(thrown)}).`, {
      fix: "Save it anew, for example as PNG or JPEG.",
      cause: thrown,
    });
  }
}

/** Throws a UserError for a path that is missing, a folder or an empty file. */
async function refuseOtherThings(path: string): Promise<void> {
  const found = await stat(path).catch((thrown: NodeJS.ErrnoException) => {
    if (thrown.code !== "ENOENT" && thrown.code !== "ENOTDIR") throw thrown;
  });
  if (!found) {
    throw new UserError(`${path}: there is no such picture.`, { fix: "Put it there, or correct the path." });
  }
  if (found.isDirectory())
    throw new UserError(`${path} is a folder, not a picture.`, { fix: "Name a file in it." });
  if (found.isFile() && found.size === 0) {
    throw new UserError(`${path} is an empty file, not a picture.`, { fix: "Put the picture there again." });
  }
}

function reason(thrown: unknown): string {
  return messageOf(thrown).split("\n")[0] ?? "";
}
