/**
 * Reads BMP files, which many scanners write and libvips does not read. NetSurf's library, compiled to
 * WebAssembly, decodes them.
 */
import type { Raster } from "./resize.ts";

const FILE_HEADER_BYTES = 14;
/** Bytes of the header of OS/2, whose width and height have 16 bits. */
const OS2_HEADER_BYTES = 12;

/** Run-length encodings. They are rare, and the library reads some of them wrong. */
const RUN_LENGTHS: readonly number[] = [1, 2];

/** Bytes of a file's start that tell its size in pixels. */
export const BMP_HEADER_BYTES = 54;

export function isBmp(start: Uint8Array): boolean {
  return start[0] === 0x42 && start[1] === 0x4d;
}

/** Returns the size in pixels, from the start of a file. Throws if the start is no header. */
export function bmpSize(start: Buffer): { width: number; height: number } {
  if (start.length < FILE_HEADER_BYTES + OS2_HEADER_BYTES) throw new Error("the file is cut off");
  const headerBytes = start.readUInt32LE(FILE_HEADER_BYTES);
  const at = FILE_HEADER_BYTES + 4;
  const isOs2 = headerBytes === OS2_HEADER_BYTES;
  if (!isOs2 && start.length < BMP_HEADER_BYTES) throw new Error("the file is cut off");
  const width = isOs2 ? start.readUInt16LE(at) : start.readInt32LE(at);
  const height = isOs2 ? start.readUInt16LE(at + 2) : Math.abs(start.readInt32LE(at + 4)); // below 0: top row first
  if (width < 1 || height < 1) throw new Error("the header has no size");
  if (!isOs2 && RUN_LENGTHS.includes(start.readUInt32LE(at + 12)))
    throw new Error("run-length encoded BMP files are not read");
  return { width, height };
}

/**
 * Returns the colours of a whole file. Alpha is dropped, because most programs write nothing meaningful
 * there.
 */
export async function decodeBmp(bytes: Buffer): Promise<Raster> {
  bmpSize(bytes); // refuses what the library would read wrong
  const { decode } = (await import("@cwasm/nsbmp")).default;
  const { width, height, data } = decode(bytes);
  const pixels = new Uint8Array(width * height * 3);
  for (let from = 0, to = 0; to < pixels.length; from += 4, to += 3) {
    pixels[to] = data[from] as number;
    pixels[to + 1] = data[from + 1] as number;
    pixels[to + 2] = data[from + 2] as number;
  }
  return { width, height, pixels };
}
