/** Whether a picture file reaches its end: a download or a copy that broke off leaves a sound header, which would pass until the picture's turn comes. */
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

/** Whether a picture reaches its end: "missing" if it may be cut off, "unknown" if its format does not tell. */
export async function endOf(path: string): Promise<"whole" | "missing" | "unknown"> {
  const { start, end, totalBytes } = await pictureEnds(path, END_BYTES);
  if (totalBytes < END_BYTES) return "missing";
  const file = { start, end, fileBytes: totalBytes };
  const format = FORMATS.find(({ is }) => is(file));
  if (!format) return "unknown";
  return format.isWhole(file) ? "whole" : "missing";
}
