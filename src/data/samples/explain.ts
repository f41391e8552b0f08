/**
 * Turns an encoded sample into text again. Spans separate the text that the model is given from the text that
 * it learns.
 */

import type { Tokenizer } from "../text/tokenizer.ts";
import type { EncodedSample } from "./dialogue.ts";
import { IGNORE, IMAGE_PLACEHOLDER, IMAGE_SLOT } from "./sample.ts";

export interface Span {
  kind: "prompt" | "picture" | "answer";
  text: string;
}

/**
 * Returns spans in order. Joined, their texts are the whole sample, with control tokens spelled out. Without
 * a tokenizer, the texts are ids.
 */
export function explainSample({ inputIds, labels }: EncodedSample, tokenizer: Tokenizer | undefined): Span[] {
  const spans: Span[] = [];
  for (let start = 0, end = 0; start < inputIds.length; start = end) {
    const kind = kindAt(start);
    do end++;
    while (kind !== "picture" && end < inputIds.length && kindAt(end) === kind);
    const ids = Array.from(inputIds.subarray(start, end));
    spans.push({ kind, text: kind === "picture" ? IMAGE_PLACEHOLDER : spell(ids, tokenizer) });
  }
  return spans;

  function kindAt(row: number): Span["kind"] {
    if (inputIds[row] === IMAGE_SLOT) return "picture";
    return labels[row] === IGNORE ? "prompt" : "answer";
  }
}

/** Decodes without the spaces that the official decoder puts before `<s>` and `</s>`. */
function spell(ids: number[], tokenizer: Tokenizer | undefined): string {
  if (!tokenizer) return ids.join(" ");
  const { controlIds } = tokenizer;
  let text = "";
  let run: number[] = [];
  for (const id of ids) {
    if (controlIds.includes(id)) {
      text += tokenizer.decode(run) + tokenizer.piece(id);
      run = [];
    } else run.push(id);
  }
  return text + tokenizer.decode(run);
}
