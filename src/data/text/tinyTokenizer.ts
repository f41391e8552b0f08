/**
 * Trains a small sentencepiece BPE tokenizer from texts, for checkpoints that have none. It has the layout of
 * the official one (control pieces, 256 byte pieces, learned pieces, `[UNUSED_TOKEN_n]` at the end, 145 and
 * 146 last) and is a few hundred times smaller.
 */
import { UserError } from "../../errors.ts";
import { type Piece, writeModel } from "./sentencepieceModel.ts";

const CONTROL_PIECES: Piece[] = [
  { text: "<unk>", score: 0, kind: "unknown" },
  { text: "<s>", score: 0, kind: "control" },
  { text: "</s>", score: 0, kind: "control" },
];
const LAST_UNUSED = 146; // the official tokenizer's last piece is [UNUSED_TOKEN_146]
const MARKER_COUNT = 2; // [UNUSED_TOKEN_145] ends a turn, [UNUSED_TOKEN_146] starts one
const SPACE = "\u2581"; // how sentencepiece writes a space

/**
 * Returns the bytes of a tokenizer.model with exactly vocabSize pieces. Merges never cross from letters to
 * digits, signs or line breaks. Pieces that the texts do not fill are further [UNUSED_TOKEN_n]. Throws a
 * UserError below 261 pieces.
 */
export function trainTokenizer(texts: string[], { vocabSize }: { vocabSize: number }): Uint8Array {
  const bytes = Array.from({ length: 256 }, (_, byte) => bytePiece(byte));
  const room = vocabSize - CONTROL_PIECES.length - bytes.length - MARKER_COUNT;
  if (room < 0) {
    const least = vocabSize - room;
    throw new UserError(
      `A vocabulary of ${vocabSize} is too small: bytes and control tokens alone are ${least}.`,
      {
        fix: `Ask for ${least} or more; 1024 is a good size for a tiny checkpoint.`,
      },
    );
  }
  const words = countWords(texts);
  const characters = commonCharacters(words, Math.floor(room / 2));
  const merges = learnMerges(words, new Set(characters), room - characters.length);
  const learned = [...merges, ...characters];
  return writeModel([
    ...CONTROL_PIECES,
    ...bytes,
    ...learned.map((text, index): Piece => ({ text, score: -index, kind: "normal" })),
    ...unusedPieces(room - learned.length + MARKER_COUNT),
  ]);
}

function bytePiece(byte: number): Piece {
  return { text: `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`, score: 0, kind: "byte" };
}

/**
 * Returns the last `count` of [UNUSED_TOKEN_0] to [UNUSED_TOKEN_146]. Any more stand before them, numbered
 * from 147.
 */
function unusedPieces(count: number): Piece[] {
  const numbers = Array.from({ length: count }, (_, index) => {
    const number = LAST_UNUSED - (count - 1) + index;
    return number >= 0 ? number : LAST_UNUSED - number;
  });
  return numbers.map((number) => ({ text: `[UNUSED_TOKEN_${number}]`, score: 0, kind: "userDefined" }));
}

/**
 * Counts the stretches of text within which pieces may grow: a word with the space before it, one digit,
 * signs, breaks.
 */
function countWords(texts: string[]): Map<string, number> {
  const counts = new Map<string, number>();
  for (const text of texts) {
    for (const word of text
      .replaceAll(" ", SPACE)
      .match(/\u2581?[\p{L}\p{M}]+|\p{N}|\u2581+|\n+|[^\p{L}\p{M}\p{N}\u2581\n]+/gu) ?? []) {
      counts.set(word, (counts.get(word) ?? 0) + 1);
    }
  }
  return counts;
}

/** Returns the most frequent characters, at most `most`. Other characters are spelled in bytes. */
function commonCharacters(words: Map<string, number>, most: number): string[] {
  const counts = new Map<string, number>();
  for (const [word, count] of words) {
    for (const character of word) counts.set(character, (counts.get(character) ?? 0) + count);
  }
  counts.delete("\0"); // parts the two sides of a pair below
  return [...counts]
    .sort(byCountThenText)
    .slice(0, most)
    .map(([character]) => character);
}

interface Word {
  symbols: string[];
  count: number;
}

/**
 * Joins the most frequent neighbours again and again, until there are `mostPieces` new pieces or no pair
 * comes twice.
 */
function learnMerges(
  words: Map<string, number>,
  characters: ReadonlySet<string>,
  mostPieces: number,
): string[] {
  const open = [...words].map(([word, count]): Word => ({ symbols: [...word], count }));
  const pairs = new PairCounts(characters);
  for (const word of open) pairs.add(word, 1);
  const merges = new Set<string>();
  while (merges.size < mostPieces) {
    const best = pairs.mostFrequent();
    if (!best) break;
    const [left, right] = best;
    merges.add(left + right);
    for (const word of open) {
      if (!word.symbols.includes(left)) continue;
      pairs.add(word, -1);
      word.symbols = merged(word.symbols, left, right);
      pairs.add(word, 1);
    }
  }
  return [...merges];
}

class PairCounts {
  readonly #counts = new Map<string, number>();
  readonly #known: Set<string>;

  constructor(characters: ReadonlySet<string>) {
    this.#known = new Set(characters);
  }

  /** Counts a word's neighbours `sign` times over; a character that has no piece joins nothing. */
  add({ symbols, count }: Word, sign: 1 | -1): void {
    for (let at = 1; at < symbols.length; at++) {
      const left = symbols[at - 1] as string;
      const right = symbols[at] as string;
      if (!this.#known.has(left) || !this.#known.has(right)) continue;
      const key = `${left}\0${right}`;
      this.#counts.set(key, (this.#counts.get(key) ?? 0) + sign * count);
    }
  }

  /** Returns the pair that comes most often, which becomes a piece; undefined if none comes twice. */
  mostFrequent(): [string, string] | undefined {
    let best: [string, number] | undefined;
    for (const entry of this.#counts) {
      if (entry[1] >= 2 && (!best || byCountThenText(entry, best) < 0)) best = entry;
    }
    if (!best) return undefined;
    const [left = "", right = ""] = best[0].split("\0");
    this.#known.add(left + right);
    return [left, right];
  }
}

function merged(symbols: string[], left: string, right: string): string[] {
  const result: string[] = [];
  for (let at = 0; at < symbols.length; at++) {
    const joins = symbols[at] === left && symbols[at + 1] === right;
    result.push(joins ? left + right : (symbols[at] as string));
    if (joins) at++;
  }
  return result;
}

function byCountThenText(a: [string, number], b: [string, number]): number {
  return b[1] - a[1] || (a[0] < b[0] ? -1 : 1);
}
