/**
 * Writes the official prompt form of InternLM-XComposer2: `<s>`, then for every turn
 * `[UNUSED_TOKEN_146]role\n`, the text and `[UNUSED_TOKEN_145]\n`. A training sample ends in
 * `[UNUSED_TOKEN_145]</s>`. Labels follow the roles: answers and the tokens that end them. The official code
 * counts turns instead, and is wrong after a system turn. No text becomes a control token, whatever a user
 * typed.
 */
import type { DialogueForm } from "./dialogueForm.ts";
import { IGNORE, IMAGE_PLACEHOLDER, IMAGE_SLOT, type Turn } from "./sample.ts";

/** A tokenizer with the control tokens of the form. */
interface InternLM2Tokens {
  /** `<s>`, before every prompt. */
  readonly bosId: number;
  /** `</s>`, after every training sample. */
  readonly eosId: number;
  /** `[UNUSED_TOKEN_146]`, before the role of every turn. */
  readonly turnStartId: number;
  /** `[UNUSED_TOKEN_145]`, after the text of every turn. */
  readonly turnEndId: number;
  encode(text: string, options: { specials: boolean }): number[];
  decode(ids: Iterable<number>, options: { skipSpecial: boolean }): string;
}

/** Returns the form over a tokenizer. */
export function internlm2Dialogue(tokenizer: InternLM2Tokens): DialogueForm {
  return {
    encode(turns) {
      const rows = new Rows(tokenizer);
      rows.start();
      for (const [index, turn] of turns.entries()) rows.turn(turn, index === turns.length - 1);
      return { inputIds: Int32Array.from(rows.inputIds), labels: Int32Array.from(rows.labels) };
    },
    prompt(turns) {
      const rows = new Rows(tokenizer);
      rows.start();
      for (const turn of turns) rows.turn(turn, false);
      rows.openTurn("assistant");
      return Int32Array.from(rows.inputIds);
    },
    questionBefore: (inputIds, start) => questionBefore(inputIds, start, tokenizer),
    stopIds: [tokenizer.eosId, tokenizer.turnEndId],
  };
}

/**
 * Returns the text of the turn before an answer, without pictures. Without turns, returns everything before
 * the answer.
 */
function questionBefore(inputIds: Int32Array, start: number, tokenizer: InternLM2Tokens): string {
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
  readonly #tokenizer: InternLM2Tokens;

  constructor(tokenizer: InternLM2Tokens) {
    this.#tokenizer = tokenizer;
  }

  start(): void {
    this.#add([this.#tokenizer.bosId], false);
  }

  openTurn(role: Turn["role"]): void {
    this.#add([this.#tokenizer.turnStartId], false);
    this.#addText(`${role}\n`, false);
  }

  /**
   * Adds a turn. The last turn of a sample ends in `</s>` without `\n`: the official tokenizer (transformers
   * 4.33) strips the line end there.
   */
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
