/**
 * The tokenizer.json of a Qwen tokenizer: made of a vocabulary and merges, or of the files that the slow
 * tokenizer of transformers leaves instead of it (vocab.json, merges.txt, tokenizer_config.json).
 */
import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { faultOf, UserError } from "../../errors.ts";

/** How Qwen2.5 cuts a text into words before merging. Source: its published tokenizer. */
export const WORDS =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const BYTE_LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: false, use_regex: false };

export interface BpeParts {
  /** Ids by token, in the characters that stand for bytes. */
  vocab: Record<string, unknown>;
  /** Pairs that are joined, "a b", the first before all others. */
  merges: readonly string[];
  added: readonly object[];
}

/** Returns the text of a tokenizer.json. */
export function bpeJson({ vocab, merges, added }: BpeParts): string {
  return JSON.stringify({
    version: "1.0",
    ...{ truncation: null, padding: null, added_tokens: added, normalizer: { type: "NFC" } },
    pre_tokenizer: {
      type: "Sequence",
      pretokenizers: [
        { type: "Split", pattern: { Regex: WORDS }, behavior: "Isolated", invert: false },
        BYTE_LEVEL,
      ],
    },
    ...{ post_processor: BYTE_LEVEL, decoder: BYTE_LEVEL },
    model: {
      type: "BPE",
      ...{ dropout: null, unk_token: null, continuing_subword_prefix: "", end_of_word_suffix: "" },
      ...{ fuse_unk: false, byte_fallback: false, ignore_merges: false },
      ...{ vocab, merges },
    },
  });
}

const SLOW_FILES = ["vocab.json", "merges.txt", "tokenizer_config.json"] as const;

/** Returns a tokenizer.json made of the slow tokenizer's files; undefined unless all of them are there. */
export function jsonOfSlowFiles(folder: string): { file: string; text: string } | undefined {
  const [vocab, merges, config] = SLOW_FILES.map((name) => join(folder, name)) as [string, string, string];
  const isThere = (file: string): boolean => statSync(file, { throwIfNoEntry: false })?.isFile() === true;
  if (![vocab, merges, config].every(isThere)) return undefined;
  const added = Object.entries(objectOf(config).added_tokens_decoder ?? {}).map(([id, token]) => ({
    id: Number(id),
    ...(token as object),
  }));
  const lines = readFileSync(merges, "utf8").split("\n");
  if (lines[0]?.startsWith("#version")) lines.shift();
  const pairs = lines.map((line) => line.replace(/\r$/, "")).filter((line) => line !== "");
  return { file: vocab, text: bpeJson({ vocab: objectOf(vocab), merges: pairs, added }) };
}

function objectOf(file: string): Record<string, unknown> {
  try {
    return JSON.parse(readFileSync(file, "utf8")) as Record<string, unknown>;
  } catch (cause) {
    throw new UserError(`${file} can't be used: it is not JSON (${faultOf(cause)}).`, {
      fix: "Download the file again; it comes with the model.",
      cause,
    });
  }
}
