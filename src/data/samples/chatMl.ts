/**
 * Writes dialogues in ChatML, as the Qwen and InternVL models read them: for every turn `<|im_start|>role\n`,
 * the text, `<|im_end|>\n`. Labels are the assistant's texts with their `<|im_end|>`. An answer is encoded
 * apart from the header before it, so that a line end at its beginning stays a token of its own; all other
 * texts are encoded with their header. No text becomes a special token, whatever a user typed.
 */
import type { BpeTokens } from "../text/bpeTokenizer.ts";
import type { DialogueForm } from "./dialogueForm.ts";
import { LabelledRows, questionBefore } from "./labelledRows.ts";
import { IMAGE_PLACEHOLDER, IMAGE_SLOT, type Turn } from "./sample.ts";

/** How a model differs from others that read ChatML. */
export interface ChatMl {
  /** Text of the system turn, if the first turn is none. */
  system?: string;
  picture: {
    /** Names of the tokens around a picture. */
    before: string;
    after: string;
    /** Text behind a picture. */
    text?: string;
  };
}

export const QWEN2_5_VL_CHAT: ChatMl = {
  system: "You are a helpful assistant.",
  picture: { before: "<|vision_start|>", after: "<|vision_end|>" },
};

export const QWEN3_VL_CHAT: ChatMl = { picture: { before: "<|vision_start|>", after: "<|vision_end|>" } };

/** InternVL in the layout of transformers ("-hf"). */
export const INTERNVL_CHAT: ChatMl = { picture: { before: "<img>", after: "</img>", text: "\n" } };

/** InternVL in OpenGVLab's own layout, with the system turn of its code (conversation.py, internvl2_5). */
export const INTERNVL_ORIGINAL_CHAT: ChatMl = {
  ...INTERNVL_CHAT,
  system:
    "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位联合开发的多模态大语言模型。",
};

/** Returns the form over a tokenizer. Throws UserError if the tokenizer lacks one of its tokens. */
export function chatMl(tokens: BpeTokens, { system, picture }: ChatMl): DialogueForm {
  const turnStartId = tokens.idOf("<|im_start|>");
  const turnEndId = tokens.idOf("<|im_end|>");
  const slot = [tokens.idOf(picture.before), IMAGE_SLOT, tokens.idOf(picture.after)];
  const encode = (text: string): number[] => tokens.encode(text, { specials: false });

  function rowsOf(turns: readonly Turn[], labelNewline: boolean): LabelledRows {
    const rows = new LabelledRows();
    const first: Turn[] =
      system !== undefined && turns[0]?.role !== "system" ? [{ role: "system", text: system }] : [];
    for (const turn of [...first, ...turns]) addTurn(rows, turn, labelNewline);
    return rows;
  }

  function addTurn(rows: LabelledRows, turn: Turn, labelNewline: boolean): void {
    const { role, text, learned = role === "assistant" } = turn;
    rows.add([turnStartId], false);
    if (role === "assistant") rows.add(encode("assistant\n"), false);
    const [opening = "", ...others] = text.split(IMAGE_PLACEHOLDER);
    rows.add(encode(role === "assistant" ? opening : `${role}\n${opening}`), learned);
    for (const part of others) {
      rows.add(slot, false);
      rows.add(encode(`${picture.text ?? ""}${part}`), learned);
    }
    rows.add([turnEndId], learned);
    rows.add(encode("\n"), learned && labelNewline);
  }

  return {
    readRecord: (turns) => turns, // no trainer drops whitespace
    encode(turns, { labelNewline = false } = {}) {
      const rows = rowsOf(turns, labelNewline);
      return { inputIds: rows.ids(), labels: rows.labels() };
    },
    prompt(turns) {
      const rows = rowsOf(turns, false);
      rows.add([turnStartId, ...encode("assistant\n")], false);
      return rows.ids();
    },
    questionBefore: (inputIds, start) =>
      questionBefore(inputIds, start, { turnStartId, turnEndId, decode: tokens.decode.bind(tokens) }),
    stopIds: [turnEndId, tokens.idOf("<|endoftext|>")],
  };
}
