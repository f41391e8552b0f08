/**
 * Trains a small byte-level BPE tokenizer from texts, for checkpoints that have none: a tokenizer.json with
 * all bytes, learned merges, and the added tokens in their published order at the end.
 */
import { UserError } from "../../errors.ts";
import { bpeJson, WORDS } from "./bpeJson.ts";
import { CHARACTERS } from "./byteCharacters.ts";

/** Qwen2.5's added tokens; the last eight are ordinary text to a decoder of special tokens. */
export const QWEN_ADDED_TOKENS = [
  ...["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>"],
  ...["<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>"],
  ...["<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>"],
  ...["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"],
] as const;

const SPECIAL = 14;

/**
 * Returns the text of a tokenizer.json with exactly vocabSize tokens or, if the texts are few, fewer.
 * addedTokens: Qwen2.5's, and perhaps further special ones.
 */
export function trainBpe(
  texts: readonly string[],
  { vocabSize, addedTokens = QWEN_ADDED_TOKENS }: { vocabSize: number; addedTokens?: readonly string[] },
): string {
  const room = vocabSize - CHARACTERS.length - addedTokens.length;
  if (room < 0) {
    const least = vocabSize - room;
    throw new UserError(`A vocabulary of ${vocabSize} is too small: bytes and added tokens are ${least}.`, {
      fix: `Ask for ${least} or more; 1024 is a good size for a tiny checkpoint.`,
    });
  }
  const merges = learnMerges(texts, room);
  const tokens = [...CHARACTERS, ...merges.map(([first, second]) => first + second)];
  const firstAdded = vocabSize - addedTokens.length;
  const added = addedTokens.map((content, index) => ({
    id: firstAdded + index,
    content,
    ...{ single_word: false, lstrip: false, rstrip: false, normalized: false },
    special: index < SPECIAL || index >= QWEN_ADDED_TOKENS.length,
  }));
  return bpeJson({
    vocab: Object.fromEntries(tokens.map((token, id) => [token, id])),
    merges: merges.map((pair) => pair.join(" ")),
    added,
  });
}

type Pair = readonly [string, string];

/** Returns up to `most` merges: each joins the pair that is then the most frequent. */
function learnMerges(texts: readonly string[], most: number): Pair[] {
  const words = [...countWords(texts)].map(([word, times]) => ({ parts: [...word], times }));
  const merges: Pair[] = [];
  const known = new Set<string>(CHARACTERS);
  while (merges.length < most) {
    const counts = new Map<string, number>();
    for (const { parts, times } of words)
      for (let at = 1; at < parts.length; at++) {
        const pair = `${parts[at - 1]} ${parts[at]}`;
        counts.set(pair, (counts.get(pair) ?? 0) + times);
      }
    const [best] = [...counts]
      .filter(([pair]) => !known.has(pair.replace(" ", "")))
      .reduce<readonly [string, number]>((one, other) => (other[1] > one[1] ? other : one), ["", 1]);
    if (best === "") return merges;
    const [first, second] = best.split(" ") as [string, string];
    merges.push([first, second]);
    known.add(first + second);
    for (const word of words) word.parts = joined(word.parts, first, second);
  }
  return merges;
}

function joined(parts: readonly string[], first: string, second: string): string[] {
  const merged: string[] = [];
  for (const part of parts) {
    if (part === second && merged.at(-1) === first) merged[merged.length - 1] = first + second;
    else merged.push(part);
  }
  return merged;
}

/** Counts words, each spelled in the characters of its bytes. */
function countWords(texts: readonly string[]): Map<string, number> {
  const cut = new RegExp(WORDS.replace("(?i:", "(?:"), "gu");
  const counts = new Map<string, number>();
  for (const text of texts)
    for (const [word] of text.normalize("NFC").matchAll(cut)) {
      const spelled = [...new TextEncoder().encode(word)].map((byte) => CHARACTERS[byte]).join("");
      counts.set(spelled, (counts.get(spelled) ?? 0) + 1);
    }
  return counts;
}
