/**
 * Reports a sample above max_length: where its tokens come from, and which settings would fit it. Nothing is
 * cut.
 */
import { formatCount, UserError } from "../../errors.ts";
import type { PictureSize } from "../pictures/decode.ts";
import { type PictureForm, type PictureLayout, pictureTokens } from "../pictures/form.ts";
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

/** The pictures of a sample: sizes, layouts, and what can make them smaller. */
export interface MeasuredPictures {
  form: PictureForm;
  sizes: readonly PictureSize[];
  grids: readonly PictureLayout[];
  /** Whether the record itself gives the limit, so that a flag would not help. */
  ownLimit: boolean;
}

/** Returns the report of a sample that is too long. */
export function tooLongSample(
  encoded: EncodedSample,
  pictures: MeasuredPictures,
  maxLength: number,
): BadSample {
  const { source } = encoded;
  const { form, sizes, grids, ownLimit } = pictures;
  const { option, flag } = form.limit;
  const tokens = sampleRows(encoded, grids);
  const smaller = largestLimitThatFits(encoded, pictures, maxLength);
  const facts = [
    `${describeSource(source)} has ${formatCount(tokens)} tokens, but max_length is ${formatCount(maxLength)}${pictureShare(encoded, pictures)}.`,
    ...encoded.images.map(
      ({ path }, index) => `  ${pictureName(path)} is ${formatSize(sizes[index] as PictureSize)}`,
    ),
  ];
  const ways = [`--max-length ${tokens}`];
  if (smaller) {
    const way = ownLimit ? `"${option}": ${smaller.limit} in the record` : `--${flag} ${smaller.limit}`;
    ways.push(`${way}  (${formatCount(smaller.pictureTokens)} tokens for ${pictureWord(encoded)})`);
  }
  const needs = { maxLength: tokens, ...(smaller && !ownLimit && { limit: { flag, value: smaller.limit } }) };
  return { source, message: facts.join("\n"), fix: ways.join("\n"), needs };
}

function pictureShare(encoded: EncodedSample, { form, grids }: MeasuredPictures): string {
  if (grids.length === 0) return "";
  const limits = [...new Set(encoded.images.map(({ limit }) => limit))].join(", ");
  const share = formatCount(pictureTokens(grids));
  return ` (${share} of them are ${pictureWord(encoded)} at ${form.limit.option} ${limits})`;
}

function pictureWord({ images }: EncodedSample): string {
  return images.length === 1 ? "its picture" : "its pictures";
}

/** Returns the largest limit that fits; undefined if even the smallest is too much, or without pictures. */
function largestLimitThatFits(
  encoded: EncodedSample,
  pictures: MeasuredPictures,
  maxLength: number,
): { limit: number; pictureTokens: number } | undefined {
  const most = encoded.images.reduce((largest, { limit }) => Math.max(largest, limit), 0);
  for (const limit of pictures.form.limit.below(most)) {
    const grids = layoutsUpTo(limit, encoded, pictures);
    if (!grids) return undefined;
    if (sampleRows(encoded, grids) <= maxLength) return { limit, pictureTokens: pictureTokens(grids) };
  }
  return undefined;
}

/** Returns the layouts under a limit; undefined if a picture is too long and thin for it. */
function layoutsUpTo(
  most: number,
  { images }: EncodedSample,
  { form, sizes }: MeasuredPictures,
): PictureLayout[] | undefined {
  try {
    return sizes.map((size, index) => form.layout(size, Math.min(most, images[index]?.limit ?? most)));
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

function formatSize({ width, height }: PictureSize): string {
  return `${formatCount(width)} x ${formatCount(height)}`;
}
