/** Small copies of pictures for pages that carry everything within themselves. */
import sharp from "sharp";
import { decodeImage } from "./decode.ts";
import type { ImageCompat } from "./imageCompat.ts";

/**
 * Returns the picture as a data URI of a JPEG, scaled down so that neither side is longer than `mostPixels`.
 * Throws as decodeImage does.
 */
export async function thumbnailUri(path: string, compat: ImageCompat, mostPixels = 480): Promise<string> {
  const { width, height, pixels } = await decodeImage(path, { compat });
  const size = { width: mostPixels, height: mostPixels, fit: "inside", withoutEnlargement: true } as const;
  const jpeg = await sharp(pixels, { raw: { width, height, channels: 3 } })
    .resize(size)
    .jpeg({ quality: 80 })
    .toBuffer();
  return `data:image/jpeg;base64,${jpeg.toString("base64")}`;
}
