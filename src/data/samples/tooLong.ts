/**
 * Reports a sample above max_length: where its tokens come from, and which settings would fit it. Nothing is
 * cut.
 */
import { formatCount, UserError } from "../../errors.ts";
import { type HdGrid, hdGrid, type PictureSize, pictureTokens } from "../pictures/image.ts";
import { pictureName } from "../pictures/source.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type BadSample, describeSource, sampleError } from "./badSamples.ts";
import type { EncodedSample } from "./dialogue.ts";
import { sampleRows } from "./rows.ts";
import { IMAGE_PLACEHOLDER, type Sample, type Turn } from "./sample.ts";

/**
 * Characters a token. A sample with more, for each token of max_length, is counted before it is encoded as a
 * whole.
 */
const USUAL_TOKEN_CHARACTERS = 8;
/** Tokens of a turn besides its text: its start, its role and its end. */
const TURN_TOKENS = 3;
/** Characters whose tokens are counted at a time, and the tokens that a cut within a word may add. */
const CHUNK_CHARACTERS = 2 ** 14;
const CUT_TOKENS = 4;

/**
 * Throws a UserError for a dialogue that is far longer than max_length. Encoding millions of characters only
 * to refuse them would take seconds and gigabytes.
 */
export function refuseFarTooLong(sample: Sample, tokenizer: Tokenizer, maxLength: number): void {
  if (sample.kind === "tokens") return;
  const { turns, source } = sample;
  const characters = turns.reduce((sum, { text }) => sum + text.length, 0);
  const isUsual = characters <= USUAL_TOKEN_CHARACTERS * maxLength && TURN_TOKENS * turns.length <= maxLength;
  if (isUsual || leastTokens(turns, tokenizer, maxLength) <= maxLength) return;
  const found = `${formatCount(turns.length)} turns of ${formatCount(characters)} characters in all`;
  throw sampleError(
    source,
    `has more than ${formatCount(maxLength)} tokens (${found}), but max_length is ${formatCount(maxLength)}`,
    "Split the record, or remove it.",
  );
}

/** Returns the least tokens that the turns can have. Stops counting above `most`. */
function leastTokens(turns: readonly Turn[], tokenizer: Tokenizer, most: number): number {
  let tokens = TURN_TOKENS * turns.length;
  for (const turn of turns) {
    const text = turn.text.replaceAll(IMAGE_PLACEHOLDER, "");
    for (let start = 0; start < text.length && tokens <= most; start += CHUNK_CHARACTERS) {
      const ids = tokenizer.encode(text.slice(start, start + CHUNK_CHARACTERS), { specials: false });
      tokens += Math.max(0, ids.length - CUT_TOKENS);
    }
  }
  return tokens;
}

/**
 * Returns the report of a sample that is too long. `ownHdNum`: the record itself gives hd_num, so a flag
 * would not help.
 */
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

/**
 * Returns the largest hd_num that fits; undefined if even one tile is too many, or if there is no picture.
 */
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

/** Returns the grids under an hd_num; undefined if a picture is too long and thin for so few tiles. */
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
