/** Shared by the forms of dialogues: ids with their labels, and the question before an answer. */
import { IGNORE, IMAGE_SLOT } from "./sample.ts";

/** Token ids and labels growing together. */
export class LabelledRows {
  readonly #inputIds: number[] = [];
  readonly #labels: number[] = [];

  add(ids: readonly number[], learned: boolean): void {
    for (const id of ids) {
      this.#inputIds.push(id);
      this.#labels.push(learned ? id : IGNORE);
    }
  }

  ids(): Int32Array {
    return Int32Array.from(this.#inputIds);
  }

  labels(): Int32Array {
    return Int32Array.from(this.#labels);
  }
}

interface TurnTokens {
  /** Before the role of every turn. */
  readonly turnStartId: number;
  /** After the text of every turn. */
  readonly turnEndId: number;
  decode(ids: Iterable<number>, options: { skipSpecial: boolean }): string;
}

/**
 * Returns the text of the turn before the answer that begins at a row, without pictures. Without turns,
 * returns everything before the answer.
 */
export function questionBefore(inputIds: Int32Array, start: number, tokens: TurnTokens): string {
  const before = inputIds.subarray(0, start);
  const answerTurn = before.lastIndexOf(tokens.turnStartId);
  const turn = before.subarray(0, Math.max(0, answerTurn)).lastIndexOf(tokens.turnStartId);
  const textOf = (ids: Int32Array): string =>
    tokens.decode(
      ids.filter((id) => id !== IMAGE_SLOT && id !== tokens.turnEndId),
      { skipSpecial: true },
    );
  if (turn < 0) return textOf(before).trim();
  return textOf(before.subarray(turn + 1, answerTurn))
    .replace(/^\s*(user|assistant|system)\n/, "")
    .trim();
}
