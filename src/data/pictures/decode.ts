/**
 * Decodes picture files to RGB. "official" is the official code's Image.open(path).convert("RGB"): it drops
 * alpha and ignores the EXIF orientation. Otherwise the model sees what a person sees: the picture upright,
 * on white. Colour profiles are ignored, because the models were trained on pictures that were read without
 * them.
 */
import { stat } from "node:fs/promises";
import sharp, { type Metadata, type Sharp } from "sharp";
import { formatCount, messageOf, UserError } from "../../errors.ts";
import { BMP_HEADER_BYTES, bmpSize, decodeBmp, isBmp } from "./bmp.ts";
import { endOf } from "./fileEnd.ts";
import type { ImageCompat } from "./imageCompat.ts";
import type { Raster } from "./resize.ts";
import { isEmbedded, pictureBytes, pictureEnds, pictureInput, pictureName } from "./source.ts";

/**
 * Pixels of the largest picture: 256 Mi, which are 768 MiB decoded. Far above any page, and far below the
 * size that a hostile PNG of a few kilobytes can claim.
 */
export const MAX_PIXELS = 2 ** 28;

/** Channels of the largest picture: colours, alpha, and those that a scanner adds, such as infrared. */
const MAX_CHANNELS = 8;

sharp.cache(false); // a file that was replaced must not come back from libvips' cache

/** Size of a picture in pixels. */
export interface PictureSize {
  width: number;
  height: number;
}

/** The facts in a picture's header. */
export interface PictureHeader {
  /** Size as stored. */
  width: number;
  height: number;
  /** Size as a person sees it: the EXIF orientation is applied. */
  shown: PictureSize;
  /** Undefined for a BMP, which sharp does not read. */
  sharp: Metadata | undefined;
}

/** Reads a picture of any format that sharp knows, or a BMP; throws a UserError that names the file. */
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
    if (!header.sharp) return decodeBmp(await pictureBytes(path));
    const options = {
      ignoreIcc: true,
      limitInputPixels: maxPixels,
      limitInputChannels: MAX_CHANNELS,
      failOn: "error",
    } as const;
    return decoded(sharp(pictureInput(path), options), header.sharp, compat);
  });
}

/** Returns the size in pixels from the file's header alone: as stored for "official", as shown otherwise. */
export async function imageSize(path: string, compat: ImageCompat): Promise<PictureSize> {
  const { width, height, shown } = await readHeader(path);
  return compat === "official" ? { width, height } : shown;
}

/** Returns the header of a picture file; decodes nothing. */
export function readHeader(path: string): Promise<PictureHeader> {
  return readable(path, async () => {
    const { start } = await pictureEnds(path, BMP_HEADER_BYTES);
    if (isBmp(start)) {
      const size = bmpSize(start);
      return { ...size, shown: size, sharp: undefined };
    }
    const header = await sharp(pictureInput(path), {
      limitInputPixels: false,
      limitInputChannels: MAX_CHANNELS,
    }).metadata();
    return { width: header.width, height: header.height, shown: header.autoOrient, sharp: header };
  });
}

/**
 * Throws a UserError for a picture that is cut off. Decodes the pictures that look cut off; with `thorough`
 * also those of formats that do not mark their end. Decoding every picture of a data set would take minutes.
 */
export async function refuseCutOff(
  path: string,
  { compat, thorough }: { compat: ImageCompat; thorough: boolean },
): Promise<void> {
  const end = await readable(path, () => endOf(path));
  if (end === "missing" || (end === "unknown" && thorough)) await decodeImage(path, { compat });
}

/**
 * Channels of colour by libvips' name of the colour space; 3 for other names. Further channels are alpha, or
 * a scanner's own.
 */
const COLOUR_CHANNELS: Readonly<Record<string, number>> = { "b-w": 1, grey16: 1 };

async function decoded(picture: Sharp, header: Metadata, compat: ImageCompat): Promise<Raster> {
  const { space, channels, depth } = header;
  const upright = compat === "official" ? picture : picture.autoOrient();
  if (space === "cmyk") {
    const inks = upright.pipelineColourspace("cmyk").toColourspace("cmyk");
    return inkToRgb(withoutMore(depth === "ushort" ? await upperBits(inks) : await pixelsOf(inks), 4));
  }
  const isAlpha = channels <= (COLOUR_CHANNELS[space] ?? 3) + 1; // with more, nobody knows which
  if (isAlpha && header.hasAlpha && compat !== "official")
    return overWhite(await pixelsOf(upright.toColourspace("srgb")));
  return withoutMore(await pixelsOf(upright.removeAlpha().toColourspace("srgb")), 3);
}

interface Channels extends Raster {
  channels: number;
}

async function pixelsOf(picture: Sharp): Promise<Channels> {
  const { data, info } = await picture.raw().toBuffer({ resolveWithObject: true });
  return { width: info.width, height: info.height, channels: info.channels, pixels: data };
}

/** Returns the upper 8 of 16 bits. libvips would clip inks of 16 bits to 255. */
async function upperBits(picture: Sharp): Promise<Channels> {
  const { data, info } = await picture.raw({ depth: "ushort" }).toBuffer({ resolveWithObject: true });
  const pixels = new Uint8Array(data.length / 2);
  for (let at = 0; at < pixels.length; at++) pixels[at] = data[2 * at + 1] as number; // little-endian
  return { width: info.width, height: info.height, channels: info.channels, pixels };
}

/** Returns the first `count` channels. */
function withoutMore(raster: Channels, count: number): Raster {
  const { width, height, channels, pixels } = raster;
  if (channels === count) return { width, height, pixels };
  const kept = new Uint8Array(width * height * count);
  for (let pixel = 0; pixel < width * height; pixel++)
    for (let channel = 0; channel < count; channel++)
      kept[pixel * count + channel] = pixels[pixel * channels + channel] as number;
  return { width, height, pixels: kept };
}

/**
 * Lays a picture with alpha over white, rounded as Pillow does. Source: src/libImaging/AlphaComposite.c.
 */
function overWhite({ width, height, channels, pixels }: Channels): Raster {
  const opaque = new Uint8Array(width * height * 3);
  const colours = channels - 1;
  for (let from = 0, to = 0; to < opaque.length; from += channels, to += 3) {
    const alpha = pixels[from + colours] as number;
    for (let channel = 0; channel < 3; channel++) {
      const colour = pixels[from + (colours === 3 ? channel : 0)] as number;
      opaque[to + channel] = Math.round((colour * alpha + 255 * (255 - alpha)) / 255);
    }
  }
  return { width, height, pixels: opaque };
}

/** Converts CMYK to RGB without a profile. Source: Pillow, src/libImaging/Convert.c, cmyk2rgb. */
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

/** Runs a read of a picture. Errors of Node and libvips become a UserError that names the file. */
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

/** Plain words for the messages of sharp and libvips. */
const REASONS = [
  { from: /unsupported image format/i, says: "it has no format of pictures that lorafit reads" },
  {
    from: /^Input (file|buffer) (has corrupt|contains corrupt)|^Vips|\bvips\w*: /i,
    says: "it is damaged or cut off",
  },
];

function reason(thrown: unknown): string {
  const message = messageOf(thrown).split("\n")[0] ?? "";
  return REASONS.find(({ from }) => from.test(message))?.says ?? message;
}
