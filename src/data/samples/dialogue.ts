/** Encodes samples as token ids and labels. The tokenizer's model family says how a dialogue is written. */
import { plural, UserError } from "../../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { sampleError } from "./badSamples.ts";
import { IGNORE, IMAGE_PLACEHOLDER, IMAGE_SLOT, type Sample, type SampleSource } from "./sample.ts";

export interface EncodedSample {
  source: SampleSource;
  /** Token ids, IMAGE_SLOT for each picture. */
  inputIds: Int32Array;
  /** One label for each id: the id itself if the token is learned, else IGNORE. */
  labels: Int32Array;
  /** Pictures in the order of their slots, each with the limit of its tokens. */
  images: { path: string; limit: number }[];
}

/** Which tokens of an answer are learned. */
export interface LabelOptions {
  /** Whether the line end behind an answer's last token is learned too. Default: false. */
  labelNewline?: boolean;
}

/**
 * Encodes a sample for training. Throws a UserError if its pictures do not match their places. A sample of
 * ids needs no tokenizer. limit: of a picture's tokens, as the form of its pictures takes it.
 */
export function encodeSample(
  sample: Sample,
  tokenizer: Tokenizer | undefined,
  limit: number,
  options: LabelOptions = {},
): EncodedSample {
  if (sample.kind === "tokens") {
    const { inputIds, labels = new Int32Array(inputIds.length).fill(IGNORE) } = sample;
    return withPictures(sample, inputIds, labels, limit);
  }
  const { dialogue } = requireTokenizer(tokenizer);
  const { inputIds, labels } = dialogue.encode(dialogue.readRecord(sample.turns), options);
  return withPictures(sample, inputIds, labels, limit);
}

/** Encodes the part of a data set's sample before its last answer. There are no labels. */
export function encodeRecordPrompt(
  sample: Sample,
  tokenizer: Tokenizer | undefined,
  limit: number,
): EncodedSample {
  if (sample.kind === "tokens") return encodePrompt(sample, tokenizer, limit);
  const turns = [...requireTokenizer(tokenizer).dialogue.readRecord(sample.turns)];
  return encodePrompt({ ...sample, turns }, tokenizer, limit);
}

/** Encodes what a user has written, up to the answer to generate. There are no labels. */
export function encodePrompt(sample: Sample, tokenizer: Tokenizer | undefined, limit: number): EncodedSample {
  const whole = encodeSample(sample, tokenizer, limit);
  const inputIds =
    sample.kind === "tokens"
      ? sample.inputIds.slice(0, sample.labels && lastAnswerStart(sample.labels))
      : requireTokenizer(tokenizer).dialogue.prompt(
          sample.turns.at(-1)?.role === "assistant" ? sample.turns.slice(0, -1) : sample.turns,
        );
  const labels = new Int32Array(inputIds.length).fill(IGNORE);
  return { source: sample.source, inputIds, labels, images: whole.images.slice(0, slotCount(inputIds)) };
}

/** Returns the tokenizer; throws a UserError if there is none. */
export function requireTokenizer(tokenizer: Tokenizer | undefined): Tokenizer {
  if (tokenizer) return tokenizer;
  throw new UserError("These samples are text, and there is no tokenizer to read them with.", {
    fix: "Put the model's tokenizer (tokenizer.model or tokenizer.json) into its folder: only samples of input_ids do without.",
  });
}

function withPictures(
  sample: Sample,
  inputIds: Int32Array,
  rawLabels: Int32Array,
  limit: number,
): EncodedSample {
  const slots = slotCount(inputIds);
  if (slots !== sample.images.length) {
    const mark = sample.kind === "tokens" ? String(IMAGE_SLOT) : IMAGE_PLACEHOLDER;
    const clause = `has ${plural(sample.images.length, "picture")} but ${plural(slots, "place")} for them (${mark})`;
    throw sampleError(
      sample.source,
      clause,
      `Write ${mark} once for each picture, where the model should see it.`,
    );
  }
  const labels = rawLabels.map((label, row) => (inputIds[row] === IMAGE_SLOT ? IGNORE : label));
  const limits = sample.kind === "tokens" ? sample.limits : undefined;
  const images = sample.images.map((path, index) => ({ path, limit: limits?.values[index] ?? limit }));
  return { source: sample.source, inputIds, labels, images };
}

function slotCount(inputIds: Int32Array): number {
  return inputIds.reduce((count, id) => count + (id === IMAGE_SLOT ? 1 : 0), 0);
}

/** Returns the first row of the last run of labels; the end if there are no labels. */
function lastAnswerStart(labels: Int32Array): number {
  let end = labels.length;
  while (end > 0 && labels[end - 1] === IGNORE) end--;
  if (end === 0) return labels.length;
  let start = end;
  while (start > 0 && labels[start - 1] !== IGNORE) start--;
  return start;
}
