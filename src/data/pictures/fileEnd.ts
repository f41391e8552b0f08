/**
 * Checks whether a picture file reaches its end. A broken download or copy has a sound header, so without
 * this check it would stop a run in its middle.
 */
import { pictureEnds } from "./source.ts";

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

/**
 * Formats that mark their end. Bytes after the end (a phone's film behind its photo) make a whole file look
 * cut off. A file that is cut off never looks whole.
 */
const FORMATS: readonly { is: (file: Ends) => boolean; isWhole: (file: Ends) => boolean }[] = [
  { is: (file) => startsWith(file, "\x89PNG"), isWhole: (file) => endsWith(file, "IEND\xae\x42\x60\x82") },
  { is: (file) => startsWith(file, "\xff\xd8"), isWhole: (file) => endsWith(file, "\xff\xd9") },
  { is: (file) => startsWith(file, "GIF8"), isWhole: (file) => endsWith(file, ";") },
  {
    is: (file) => startsWith(file, "RIFF"),
    isWhole: ({ start, fileBytes }) => start.readUInt32LE(4) + 8 <= fileBytes,
  },
];

/**
 * Returns whether a picture reaches its end: "missing" if it may be cut off, "unknown" if its format has no
 * mark.
 */
export async function endOf(path: string): Promise<"whole" | "missing" | "unknown"> {
  const { start, end, totalBytes } = await pictureEnds(path, END_BYTES);
  if (totalBytes < END_BYTES) return "missing";
  const file = { start, end, fileBytes: totalBytes };
  const format = FORMATS.find(({ is }) => is(file));
  if (!format) return "unknown";
  return format.isWhole(file) ? "whole" : "missing";
}
