/**
 * Turns to token ids and labels, in the official prompt form:
 * `<s>` then, for every turn, `[UNUSED_TOKEN_146]role\n`, the text, `[UNUSED_TOKEN_145]\n`; a training sample ends `[UNUSED_TOKEN_145]</s>`.
 * Labels follow the roles (answers and what ends them), where the official code counts turns and goes astray on a system turn;
 * and no text becomes a control token, whatever a user typed.
 */
import { plural, UserError } from "../../errors.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { sampleError } from "./badSamples.ts";
import { IMAGE_PLACEHOLDER, type Sample, type SampleSource, type Turn } from "./sample.ts";

/** The one id that stands for a whole picture until its rows are laid out. */
export const IMAGE_SLOT = -200;
/** The label of a token that isn't learned. */
export const IGNORE = -100;

export interface EncodedSample {
  source: SampleSource;
  /** Token ids, IMAGE_SLOT for each picture. */
  inputIds: Int32Array;
  /** As long as inputIds: the token's own id where it is learned, else IGNORE. */
  labels: Int32Array;
  /** In the order of their slots. */
  images: { path: string; hdNum: number }[];
}

/** A sample for training; throws UserError where its pictures don't match their places. A sample of ids needs no tokenizer. */
export function encodeSample(sample: Sample, tokenizer: Tokenizer | undefined, hdNum: number): EncodedSample {
  if (sample.kind === "tokens") {
    const { inputIds, labels = new Int32Array(inputIds.length).fill(IGNORE) } = sample;
    return withPictures(sample, inputIds, labels, hdNum);
  }
  const rows = new Rows(requireTokenizer(tokenizer));
  rows.start();
  for (const [index, turn] of sample.turns.entries()) rows.turn(turn, index === sample.turns.length - 1);
  return withPictures(sample, Int32Array.from(rows.inputIds), Int32Array.from(rows.labels), hdNum);
}

/** What comes before a sample's last answer, for generating that answer: the pictures before it, and no labels. */
export function encodePrompt(sample: Sample, tokenizer: Tokenizer | undefined, hdNum: number): EncodedSample {
  const whole = encodeSample(sample, tokenizer, hdNum);
  const inputIds =
    sample.kind === "tokens"
      ? sample.inputIds.slice(0, sample.labels && lastAnswerStart(sample.labels))
      : chatPrompt(
          sample.turns.at(-1)?.role === "assistant" ? sample.turns.slice(0, -1) : sample.turns,
          requireTokenizer(tokenizer),
        );
  const labels = new Int32Array(inputIds.length).fill(IGNORE);
  return { source: sample.source, inputIds, labels, images: whole.images.slice(0, slotCount(inputIds)) };
}

/** The ids of a dialogue up to the place where the assistant speaks next, in the form of training: one `<s>`, at the start. */
export function chatPrompt(turns: readonly Turn[], tokenizer: Tokenizer): Int32Array {
  const rows = new Rows(tokenizer);
  rows.start();
  for (const turn of turns) rows.turn(turn, false);
  rows.openTurn("assistant");
  return Int32Array.from(rows.inputIds);
}

/** The text of the turn before the answer that begins at a row, pictures left out; of ids without turns, all that comes before. */
export function questionBefore(inputIds: Int32Array, start: number, tokenizer: Tokenizer): string {
  const before = inputIds.subarray(0, start);
  const answerTurn = before.lastIndexOf(tokenizer.turnStartId);
  const turn = before.subarray(0, Math.max(0, answerTurn)).lastIndexOf(tokenizer.turnStartId);
  const textOf = (ids: Int32Array): string =>
    tokenizer.decode(
      ids.filter((id) => id !== IMAGE_SLOT && id !== tokenizer.turnEndId),
      { skipSpecial: true },
    );
  if (turn < 0) return textOf(before).trim();
  return textOf(before.subarray(turn + 1, answerTurn))
    .replace(/^\s*(user|assistant|system)\n/, "")
    .trim();
}

/** Token ids and labels growing together. */
class Rows {
  readonly inputIds: number[] = [];
  readonly labels: number[] = [];
  readonly #tokenizer: Tokenizer;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  start(): void {
    this.#add([this.#tokenizer.bosId], false);
  }

  openTurn(role: Turn["role"]): void {
    this.#add([this.#tokenizer.turnStartId], false);
    this.#addText(`${role}\n`, false);
  }

  /** The last turn of a sample ends in `</s>` and no `\n`: the official tokenizer (transformers 4.33) strips it there. */
  turn({ role, text, learned = role === "assistant" }: Turn, last: boolean): void {
    this.openTurn(role);
    for (const [index, part] of text.split(IMAGE_PLACEHOLDER).entries()) {
      if (index > 0) this.#add([IMAGE_SLOT], false);
      this.#addText(part, learned);
    }
    this.#add([this.#tokenizer.turnEndId], learned);
    if (last) this.#add([this.#tokenizer.eosId], learned);
    else this.#addText("\n", false);
  }

  #addText(text: string, learned: boolean): void {
    this.#add(this.#tokenizer.encode(text, { specials: false }), learned);
  }

  #add(ids: number[], learned: boolean): void {
    for (const id of ids) {
      this.inputIds.push(id);
      this.labels.push(learned ? id : IGNORE);
    }
  }
}

/** The tokenizer; throws UserError where there is none. */
export function requireTokenizer(tokenizer: Tokenizer | undefined): Tokenizer {
  if (tokenizer) return tokenizer;
  throw new UserError("These samples are text, and there is no tokenizer to read them with.", {
    fix: "Put the model's tokenizer.model into its folder: only samples of input_ids do without.",
  });
}

function withPictures(
  sample: Sample,
  inputIds: Int32Array,
  rawLabels: Int32Array,
  hdNum: number,
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
  const hdNums = sample.kind === "tokens" ? sample.hdNums : undefined;
  const images = sample.images.map((path, index) => ({ path, hdNum: hdNums?.[index] ?? hdNum }));
  return { source: sample.source, inputIds, labels, images };
}

function slotCount(inputIds: Int32Array): number {
  return inputIds.reduce((count, id) => count + (id === IMAGE_SLOT ? 1 : 0), 0);
}

/** First row of the last run of labels; the end where nothing is labelled. */
function lastAnswerStart(labels: Int32Array): number {
  let end = labels.length;
  while (end > 0 && labels[end - 1] === IGNORE) end--;
  if (end === 0) return labels.length;
  let start = end;
  while (start > 0 && labels[start - 1] !== IGNORE) start--;
  return start;
}
