/** What is said of a sample above max_length: where its tokens come from, and which settings would hold it. Nothing is cut. */
import { formatCount, UserError } from "../../errors.ts";
import { type HdGrid, hdGrid, type PictureSize, pictureTokens } from "../pictures/image.ts";
import { pictureName } from "../pictures/source.ts";
import { type BadSample, describeSource } from "./badSamples.ts";
import type { EncodedSample } from "./dialogue.ts";
import { sampleRows } from "./rows.ts";

/** `ownHdNum` says that the record itself gives hd_num, so that a flag wouldn't help. */
export function tooLongSample(
  encoded: EncodedSample,
  { grids, sizes, ownHdNum }: { grids: HdGrid[]; sizes: PictureSize[]; ownHdNum: boolean },
  maxLength: number,
): BadSample {
  const { source } = encoded;
  const tokens = sampleRows(encoded, grids);
  const smaller = largestHdNumThatFits(encoded, sizes, maxLength);
  const facts = [
    `${describeSource(source)} has ${formatCount(tokens)} tokens, but max_length is ${formatCount(maxLength)}${pictureShare(encoded, grids)}.`,
    ...encoded.images.map(
      ({ path }, index) => `  ${pictureName(path)} is ${formatSize(sizes[index] as PictureSize)}`,
    ),
  ];
  const ways = [`--max-length ${tokens}`];
  if (smaller) {
    const way = ownHdNum ? `"hd_num": ${smaller.hdNum} in the record` : `--hd-num ${smaller.hdNum}`;
    ways.push(`${way}  (${formatCount(smaller.pictureTokens)} tokens for ${pictureWord(encoded)})`);
  }
  const hdNum = smaller && !ownHdNum ? { hdNum: smaller.hdNum } : {};
  return { source, message: facts.join("\n"), fix: ways.join("\n"), needs: { maxLength: tokens, ...hdNum } };
}

function pictureShare(encoded: EncodedSample, grids: HdGrid[]): string {
  if (grids.length === 0) return "";
  const hdNums = [...new Set(encoded.images.map(({ hdNum }) => hdNum))].join(", ");
  return ` (${formatCount(pictureTokens(grids))} of them are ${pictureWord(encoded)} at hd_num ${hdNums})`;
}

function pictureWord({ images }: EncodedSample): string {
  return images.length === 1 ? "its picture" : "its pictures";
}

/** Undefined where even the fewest tiles are too many, or there is no picture. */
function largestHdNumThatFits(
  encoded: EncodedSample,
  sizes: PictureSize[],
  maxLength: number,
): { hdNum: number; pictureTokens: number } | undefined {
  for (let hdNum = Math.max(0, ...encoded.images.map((image) => image.hdNum)) - 1; hdNum >= 1; hdNum--) {
    const grids = gridsUpTo(hdNum, encoded, sizes);
    if (!grids) return undefined;
    if (sampleRows(encoded, grids) <= maxLength) return { hdNum, pictureTokens: pictureTokens(grids) };
  }
  return undefined;
}

/** Undefined where a picture is too long and thin for so few tiles. */
function gridsUpTo(mostHdNum: number, { images }: EncodedSample, sizes: PictureSize[]): HdGrid[] | undefined {
  try {
    return sizes.map(({ width, height }, index) =>
      hdGrid(width, height, Math.min(mostHdNum, images[index]?.hdNum ?? mostHdNum)),
    );
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

function formatSize({ width, height }: PictureSize): string {
  return `${formatCount(width)} x ${formatCount(height)}`;
}
