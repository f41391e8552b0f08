/** Marks the differences of two texts, word by word. */
import { diffArrays } from "diff";

/** A piece of a text, and whether the other text has it in the same place. */
export interface Piece {
  text: string;
  isCommon: boolean;
}

/** Texts with more differences than this are only compared from both ends: time grows with the square. */
const MOST_EDITS = 2000;

const words = new Intl.Segmenter("und", { granularity: "word" });

/** Returns both texts with `mark` around what differs; unmarked if they have no word in common. */
export function withDifferences(
  one: string,
  other: string,
  mark: (text: string) => string,
): [one: string, other: string] {
  const [left, right] = differences(one, other);
  return [marked(left, mark), marked(right, mark)];
}

/** Returns the pieces of both texts; one common piece each if they have no word in common. */
export function differences(one: string, other: string): [one: Piece[], other: Piece[]] {
  const [left, right] = [wordsOf(one), wordsOf(other)];
  const [keptLeft, keptRight] = commonWords(left, right);
  if (left.every((word, at) => isSpace(word) || !keptLeft[at]))
    return [[{ text: one, isCommon: true }], [{ text: other, isCommon: true }]];
  return [pieces(left, keptLeft), pieces(right, keptRight)];
}

function wordsOf(text: string): string[] {
  return Array.from(words.segment(text), ({ segment }) => segment);
}

/** Returns for each word of both texts whether it is in a longest sequence of words that both have. */
function commonWords(left: string[], right: string[]): [left: boolean[], right: boolean[]] {
  const changes = diffArrays(left, right, { maxEditLength: MOST_EDITS });
  if (!changes) return commonEnds(left, right);
  const flags = ({ value }: { value: string[] }, isCommon: boolean): boolean[] => value.map(() => isCommon);
  return [
    changes.filter(({ added }) => !added).flatMap((change) => flags(change, !change.removed)),
    changes.filter(({ removed }) => !removed).flatMap((change) => flags(change, !change.added)),
  ];
}

function commonEnds(left: string[], right: string[]): [left: boolean[], right: boolean[]] {
  const shorter = Math.min(left.length, right.length);
  let start = 0;
  while (start < shorter && left[start] === right[start]) start++;
  let end = 0;
  while (end < shorter - start && left.at(-1 - end) === right.at(-1 - end)) end++;
  const flags = ({ length }: string[]): boolean[] =>
    Array.from({ length }, (_, at) => at < start || at >= length - end);
  return [flags(left), flags(right)];
}

/** Joins neighbours that are alike into pieces. A space between two words that differ differs too. */
function pieces(texts: string[], common: readonly boolean[]): Piece[] {
  const joined: Piece[] = [];
  for (const [at, text] of texts.entries()) {
    const isBetween = isSpace(text) && common[at - 1] === false && common[at + 1] === false;
    const isCommon = common[at] === true && !isBetween;
    const last = joined.at(-1);
    if (last?.isCommon === isCommon) last.text += text;
    else joined.push({ text, isCommon });
  }
  return joined;
}

function marked(parts: Piece[], mark: (text: string) => string): string {
  return parts.map(({ text, isCommon }) => (isCommon ? text : mark(text))).join("");
}

function isSpace(text: string): boolean {
  return text.trim() === "";
}
