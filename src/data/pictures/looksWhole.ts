/** Whether a picture file reaches its end: a download or a copy that broke off leaves a sound header, which would pass until the picture's turn comes. */
import { open } from "node:fs/promises";

const END_BYTES = 12;

interface Ends {
  start: Buffer;
  end: Buffer;
  fileBytes: number;
}

const latin1 = (text: string): Buffer => Buffer.from(text, "latin1");
const startsWith = ({ start }: Ends, text: string): boolean =>
  start.subarray(0, text.length).equals(latin1(text));
const endsWith = ({ end }: Ends, text: string): boolean => end.subarray(-text.length).equals(latin1(text));

/** Formats that tell their end. What follows it (a phone's film behind its photo) makes a whole file look broken, never a broken one whole. */
const FORMATS: readonly { is: (file: Ends) => boolean; isWhole: (file: Ends) => boolean }[] = [
  { is: (file) => startsWith(file, "\x89PNG"), isWhole: (file) => endsWith(file, "IEND\xae\x42\x60\x82") },
  { is: (file) => startsWith(file, "\xff\xd8"), isWhole: (file) => endsWith(file, "\xff\xd9") },
  { is: (file) => startsWith(file, "GIF8"), isWhole: (file) => endsWith(file, ";") },
  {
    is: (file) => startsWith(file, "RIFF"),
    isWhole: ({ start, fileBytes }) => start.readUInt32LE(4) + 8 <= fileBytes,
  },
];

/** False where a file may be cut off; only its decoding tells for sure. */
export async function looksWhole(path: string): Promise<boolean> {
  const handle = await open(path);
  try {
    const { size: fileBytes } = await handle.stat();
    if (fileBytes < END_BYTES) return false;
    const bytes = Buffer.alloc(2 * END_BYTES);
    await handle.read(bytes, 0, END_BYTES, 0);
    await handle.read(bytes, END_BYTES, END_BYTES, fileBytes - END_BYTES);
    const file = { start: bytes.subarray(0, END_BYTES), end: bytes.subarray(END_BYTES), fileBytes };
    return FORMATS.find(({ is }) => is(file))?.isWhole(file) ?? true;
  } finally {
    await handle.close();
  }
}
