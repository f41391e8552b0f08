/** Finds a picture's bytes: in a file, or in the data set itself as a data URI. */
import { open, readFile } from "node:fs/promises";
import { formatBytes, UserError } from "../../errors.ts";

/**
 * Returns the input for sharp: the path itself, or the bytes of a data URI. Throws a UserError if the URI is
 * not in base64.
 */
export function pictureInput(path: string): string | Buffer {
  return isEmbedded(path) ? embeddedBytes(path) : path;
}

/** Returns all bytes of a picture. */
export async function pictureBytes(path: string): Promise<Buffer> {
  return isEmbedded(path) ? embeddedBytes(path) : readFile(path);
}

/** Returns a picture's name for messages. */
export function pictureName(path: string): string {
  if (!isEmbedded(path)) return path;
  const type = /^data:([\w.+-]+\/[\w.+-]+)/i.exec(path)?.[1];
  const bytes = formatBytes((path.length * 3) / 4);
  return `a picture within the data (${type === undefined ? "" : `${type}, `}${bytes})`;
}

/** Returns the first and the last bytes of a picture, and the number of all bytes. */
export async function pictureEnds(
  path: string,
  endBytes: number,
): Promise<{ start: Buffer; end: Buffer; totalBytes: number }> {
  if (isEmbedded(path)) {
    const bytes = embeddedBytes(path);
    return { start: bytes.subarray(0, endBytes), end: bytes.subarray(-endBytes), totalBytes: bytes.length };
  }
  const handle = await open(path);
  try {
    const { size: totalBytes } = await handle.stat();
    const [start, end] = [Buffer.alloc(endBytes), Buffer.alloc(endBytes)];
    await handle.read(start, 0, endBytes, 0);
    await handle.read(end, 0, endBytes, Math.max(0, totalBytes - endBytes));
    return { start, end, totalBytes };
  } finally {
    await handle.close();
  }
}

/** Returns whether a path is a data URI, which holds the picture itself. */
export function isEmbedded(path: string): boolean {
  return /^data:/i.test(path);
}

function embeddedBytes(uri: string): Buffer {
  const comma = uri.indexOf(",");
  if (comma > 0 && /;base64$/i.test(uri.slice(0, comma))) {
    const bytes = Buffer.from(uri.slice(comma + 1), "base64");
    if (bytes.length > 0) return bytes;
  }
  throw new UserError(`${pictureName(uri)} is not in base64.`, {
    fix: "Write it as data:image/png;base64,... or as the path of a file.",
  });
}
