/** Where two texts part, word by word: what only one of them has is marked in it. */

/** A piece of a text, and whether the other text has it in the same place. */
interface Piece {
  text: string;
  isCommon: boolean;
}

/** Beyond so many pairs of words texts are only compared from both ends. */
const MOST_PAIRS = 4e6;

const words = new Intl.Segmenter("und", { granularity: "word" });

/** Both texts with `mark` around what differs; unmarked where they have no word in common. */
export function withDifferences(
  one: string,
  other: string,
  mark: (text: string) => string,
): [one: string, other: string] {
  const [left, right] = [wordsOf(one), wordsOf(other)];
  const common = commonWords(left, right);
  if (common.every(([at]) => isSpace(left[at]!))) return [one, other];
  return [
    marked(pieces(left, new Set(common.map(([at]) => at))), mark),
    marked(pieces(right, new Set(common.map(([, at]) => at))), mark),
  ];
}

function wordsOf(text: string): string[] {
  return Array.from(words.segment(text), ({ segment }) => segment);
}

/** Places in both of the words of a longest sequence that both have. */
function commonWords(left: string[], right: string[]): [number, number][] {
  const shorter = Math.min(left.length, right.length);
  let start = 0;
  while (start < shorter && left[start] === right[start]) start++;
  let end = 0;
  while (end < shorter - start && left.at(-1 - end) === right.at(-1 - end)) end++;
  const before = Array.from({ length: start }, (_, at): [number, number] => [at, at]);
  const after = Array.from({ length: end }, (_, at): [number, number] => [
    left.length - end + at,
    right.length - end + at,
  ]);
  const between = longestCommon(left.slice(start, left.length - end), right.slice(start, right.length - end));
  const shifted = between.map(([one, other]): [number, number] => [one + start, other + start]);
  return [...before, ...shifted, ...after];
}

/** By dynamic programming over all pairs; none where there are too many. */
function longestCommon(left: string[], right: string[]): [number, number][] {
  const columns = right.length + 1;
  if (left.length * columns > MOST_PAIRS) return [];
  const lengths = new Uint32Array((left.length + 1) * columns); // of what follows a pair of places
  for (let row = left.length - 1; row >= 0; row--) {
    for (let column = right.length - 1; column >= 0; column--) {
      const at = row * columns + column;
      lengths[at] =
        left[row] === right[column]
          ? lengths[at + columns + 1]! + 1
          : Math.max(lengths[at + columns]!, lengths[at + 1]!);
    }
  }
  const pairs: [number, number][] = [];
  for (let row = 0, column = 0; row < left.length && column < right.length; ) {
    const at = row * columns + column;
    if (left[row] === right[column]) pairs.push([row++, column++]);
    else if (lengths[at + columns]! >= lengths[at + 1]!) row++;
    else column++;
  }
  return pairs;
}

/** Neighbours that are alike as one piece; a space between two words that differ differs too. */
function pieces(texts: string[], common: ReadonlySet<number>): Piece[] {
  const isCommon = (at: number): boolean => common.has(at);
  const joined: Piece[] = [];
  for (const [at, text] of texts.entries()) {
    const isBetween =
      isSpace(text) && at > 0 && at < texts.length - 1 && !isCommon(at - 1) && !isCommon(at + 1);
    const alike = isCommon(at) && !isBetween;
    const last = joined.at(-1);
    if (last?.isCommon === alike) last.text += text;
    else joined.push({ text, isCommon: alike });
  }
  return joined;
}

function marked(parts: Piece[], mark: (text: string) => string): string {
  return parts.map(({ text, isCommon }) => (isCommon ? text : mark(text))).join("");
}

function isSpace(text: string): boolean {
  return text.trim() === "";
}
