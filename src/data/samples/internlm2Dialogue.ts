/**
 * Writes the official prompt form of InternLM-XComposer2: `<s>`, then for every turn
 * `[UNUSED_TOKEN_146]role\n`, the text and `[UNUSED_TOKEN_145]\n`. A training sample ends in
 * `[UNUSED_TOKEN_145]</s>`. Labels follow the roles: answers and the tokens that end them. The official code
 * counts turns instead, and is wrong after a system turn. The official trainer drops whitespace at the ends
 * of a text, its chat does not. No text becomes a control token, whatever a user typed.
 */

import { trim } from "../text/whitespace.ts";
import type { DialogueForm } from "./dialogueForm.ts";
import { LabelledRows, questionBefore } from "./labelledRows.ts";
import { IMAGE_PLACEHOLDER, IMAGE_SLOT, type Turn } from "./sample.ts";

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
    readRecord: (turns) => turns.map((turn) => ({ ...turn, text: trim(turn.text) })),
    encode(turns, { labelNewline = false } = {}) {
      const rows = new Rows(tokenizer, labelNewline);
      rows.start();
      for (const [index, turn] of turns.entries()) rows.turn(turn, index === turns.length - 1);
      return { inputIds: rows.all.ids(), labels: rows.all.labels() };
    },
    prompt(turns) {
      const rows = new Rows(tokenizer, false);
      rows.start();
      for (const turn of turns) rows.turn(turn, false);
      rows.openTurn("assistant");
      return rows.all.ids();
    },
    questionBefore: (inputIds, start) => questionBefore(inputIds, start, tokenizer),
    stopIds: [tokenizer.eosId, tokenizer.turnEndId],
  };
}

/** The rows of a dialogue, turn by turn. */
class Rows {
  readonly all = new LabelledRows();
  readonly #tokenizer: InternLM2Tokens;
  readonly #labelNewline: boolean;

  constructor(tokenizer: InternLM2Tokens, labelNewline: boolean) {
    this.#tokenizer = tokenizer;
    this.#labelNewline = labelNewline;
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
    else this.#addText("\n", learned && this.#labelNewline);
  }

  #addText(text: string, learned: boolean): void {
    this.#add(this.#tokenizer.encode(text, { specials: false }), learned);
  }

  #add(ids: number[], learned: boolean): void {
    this.all.add(ids, learned);
  }
}
