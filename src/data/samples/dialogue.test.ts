import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findShared, golden } from "../../../tests/helpers/shared.ts";
import { hdGrid } from "../pictures/hdTiles/hdGrid.ts";
import type { HdImage } from "../pictures/hdTiles/hdImage.ts";
import { layoutBatch } from "../stream/batches.ts";
import { trainTokenizer } from "../text/tinyTokenizer.ts";
import { type InternLM2Tokenizer, loadTokenizer } from "../text/tokenizer.ts";
import { type EncodedSample, encodePrompt, encodeSample } from "./dialogue.ts";
import { explainSample } from "./explain.ts";
import { IGNORE, IMAGE_SLOT, type Sample, type Turn } from "./sample.ts";
import { readSamples } from "./samples.ts";

const folder = mkdtempSync(join(tmpdir(), "lorafit-dialogue-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface PictureSize {
  w: number;
  h: number;
  hd_num: number;
}

interface Encoding {
  input_ids: number[]; // -100 at the rows of pictures
  labels: number[];
  im_mask: number[];
}

interface Conversation {
  name: string;
  sample: unknown;
  images: PictureSize[];
  text: string;
  transformers_4_33: { v20?: Encoding | string; v25?: Encoding | string };
}

/** Conversations whose ids and labels are the official ones, token by token. */
const SAME = [
  "text_single_en",
  "text_single_zh",
  "text_multi_turn3",
  "strip_whitespace",
  "text_ends_with_user",
  "from_variants",
  "img1_placeholder_first",
  "img1_placeholder_space",
  "img1_multi_turn",
  "img2_two_placeholders", // of the 2.5 code, as 4KHD's takes one picture
  "img2_interleaved", // likewise
];

/** Conversations that differ on purpose. */
const DIFFERENT = {
  img1_no_placeholder: "the official picture comes after the answer, or before <s>; ours before the question",
  system_role_quirk: "the official code takes system for the assistant, and its labels lose count",
  img1_truncated: "the official code cuts the answer off; ours is whole, and too long at validation",
  text_truncated: "likewise",
  img1_truncated_in_image: "likewise, and the official label on <s> is a slip of its mask",
};

const conversations: Conversation[] = JSON.parse(readFileSync(golden("prompts/conversations.json"), "utf8"));
const official = findShared("golden/tokenizer/tokenizer.model");

describe.skipIf(!official)("prompts and labels beside the official ones", () => {
  let tokenizer: InternLM2Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(official as string);
  });

  it("every conversation is either the same or different for a reason", () => {
    expect(conversations.map(({ name }) => name).sort()).toEqual([...SAME, ...Object.keys(DIFFERENT)].sort());
  });

  it.each(SAME)("%s has the official ids and labels", (name) => {
    const { conversation, expected } = find(name);
    const batch = layOut(encode(conversation), conversation.images);
    expect(Array.from(batch.inputIds)).toEqual(expected.input_ids.map((id) => (id === -100 ? 0 : id)));
    expect(Array.from(batch.targets)).toEqual([...expected.labels.slice(1), IGNORE]);
    const rows = batch.imageSlices.flatMap(({ start, end }) => range(start, end));
    expect(rows).toEqual(range(0, expected.im_mask.length).filter((row) => expected.im_mask[row] === 1));
  });

  it("img1_no_placeholder reads like img1_placeholder_first: header, picture, question", () => {
    const { conversation, expected } = find("img1_no_placeholder");
    const { inputIds, labels } = encode(conversation);
    const text = expected.input_ids.filter((id) => id !== -100);
    expect(Array.from(inputIds)).toEqual([...text.slice(0, 4), IMAGE_SLOT, ...text.slice(4)]);
    expect(learned(labels)).toEqual(learned(expected.labels));
  });

  it("system_role_quirk differs by the role's name in the ids, and learns the answer alone", () => {
    const { conversation, expected } = find("system_role_quirk");
    const { inputIds, labels } = encode(conversation);
    const [assistant, system] = [tokenizer.encode("assistant\n"), tokenizer.encode("system\n")];
    expect(expected.input_ids.slice(2, 2 + assistant.length)).toEqual(assistant);
    expect(Array.from(inputIds)).toEqual([
      ...expected.input_ids.slice(0, 2),
      ...system,
      ...expected.input_ids.slice(2 + assistant.length),
    ]);
    expect(learned(labels)).toEqual([...tokenizer.encode("a"), tokenizer.turnEndId, tokenizer.eosId]);
  });

  it.each(["img1_truncated", "text_truncated"])("%s goes on where the official ids are cut", (name) => {
    const { conversation, expected } = find(name);
    const batch = layOut(encode(conversation), conversation.images);
    const length = expected.input_ids.length;
    expect(batch.inputIds.length).toBeGreaterThan(length);
    expect(Array.from(batch.inputIds.subarray(0, length))).toEqual(
      expected.input_ids.map((id) => Math.max(0, id)),
    );
    expect(Array.from(batch.targets.subarray(0, length - 1))).toEqual(expected.labels.slice(1));
  });

  it("img1_truncated_in_image goes on likewise, without a label on <s>", () => {
    const { conversation, expected } = find("img1_truncated_in_image");
    const encoded = encode(conversation);
    const batch = layOut(encoded, conversation.images);
    const length = expected.input_ids.length;
    expect(Array.from(batch.inputIds.subarray(0, length))).toEqual(
      expected.input_ids.map((id) => Math.max(0, id)),
    );
    expect([expected.labels[0], encoded.labels[0]]).toEqual([tokenizer.bosId, IGNORE]);
    expect(batch.labelTokens).toBe(3); // yes, end of turn, </s>
  });

  it.each(SAME)("the spans of %s join to the official text", (name) => {
    const { conversation } = find(name);
    const text = explainSample(encode(conversation), tokenizer)
      .map((span) => span.text)
      .join("");
    expect(text).toBe(`<s>${conversation.text.replace(/\n<\/s>$/, "</s>")}`);
  });

  const chats: ChatCase[] = JSON.parse(readFileSync(golden("prompts/chat.json"), "utf8"));
  it.each(chats)("the prompt $name is the official one with a single <s>", ({ chat, input_ids }) => {
    const { query, history, meta_instruction, image } = chat;
    const system: Turn[] = meta_instruction ? [{ role: "system", text: meta_instruction }] : [];
    const past = history.flatMap(([question, answer]): Turn[] => [
      { role: "user", text: question },
      { role: "assistant", text: answer },
    ]);
    const prompt = tokenizer.dialogue.prompt([...system, ...past, { role: "user", text: query }]);
    const rows = Array.from(prompt).flatMap((id) =>
      id === IMAGE_SLOT ? Array(pictureOf(image).tokens).fill(-100) : [id],
    );
    expect(rows).toEqual(input_ids.filter((id, row) => row === 0 || id !== tokenizer.bosId));
  });

  it("text that looks like control tokens stays text, and labels stay on the answers", () => {
    const turns: Turn[] = [
      { role: "user", text: "What does [UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n</s> mean? <s>" },
      { role: "assistant", text: "It ends a turn: [UNUSED_TOKEN_145]" },
    ];
    const { inputIds, labels } = encodeSample(dialogueOf(turns), tokenizer, 1);
    const count = (id: number): number => inputIds.filter((other) => other === id).length;
    const { turnStartId, turnEndId, bosId, eosId } = tokenizer;
    expect([turnStartId, turnEndId, bosId, eosId].map(count)).toEqual([2, 2, 1, 1]);
    const answer = tokenizer.encode(turns[1]?.text ?? "", { specials: false });
    expect(learned(labels)).toEqual([...answer, turnEndId, eosId]);
  });

  function encode(conversation: Conversation): EncodedSample {
    const file = join(folder, `${conversation.name}.json`);
    writeFileSync(file, JSON.stringify([conversation.sample]));
    return encodeSample(readSamples(file)[0] as Sample, tokenizer, 1);
  }
});

describe("a dialogue in tokens", () => {
  let tokenizer: InternLM2Tokenizer;
  beforeAll(async () => {
    writeFileSync(
      join(folder, "tokenizer.model"),
      trainTokenizer(["user assistant system yes no"], { vocabSize: 320 }),
    );
    tokenizer = await loadTokenizer(folder);
  });
  const turns: Turn[] = [
    { role: "system", text: "Be short." },
    { role: "user", text: "<ImageHere>A?" },
    { role: "assistant", text: "yes" },
    { role: "user", text: "B <ImageHere>" },
    { role: "assistant", text: "no" },
  ];

  it("marks prompt, pictures and answers", () => {
    const spans = explainSample(encodeSample(dialogueOf(turns, ["a.png", "b.png"]), tokenizer, 4), tokenizer);
    const [start, end] = ["[UNUSED_TOKEN_146]", "[UNUSED_TOKEN_145]"];
    expect(spans).toEqual([
      { kind: "prompt", text: `<s>${start}system\nBe short.${end}\n${start}user\n` },
      { kind: "picture", text: "<ImageHere>" },
      { kind: "prompt", text: `A?${end}\n${start}assistant\n` },
      { kind: "answer", text: `yes${end}` },
      { kind: "prompt", text: `\n${start}user\nB ` },
      { kind: "picture", text: "<ImageHere>" },
      { kind: "prompt", text: `${end}\n${start}assistant\n` },
      { kind: "answer", text: `no${end}</s>` },
    ]);
  });

  it("has the question before each answer, without pictures and turns' ends", () => {
    const { inputIds, labels } = encodeSample(dialogueOf(turns, ["a.png", "b.png"]), tokenizer, 4);
    const starts = [...labels.keys()].filter((row) => labels[row] !== IGNORE && labels[row - 1] === IGNORE);
    expect(starts.map((start) => tokenizer.dialogue.questionBefore(inputIds, start))).toEqual(["A?", "B"]);
    const alone = Int32Array.from([IMAGE_SLOT, ...tokenizer.encode("yes no")]);
    expect(tokenizer.dialogue.questionBefore(alone, alone.length)).toBe("yes no");
  });

  it("is cut before the last answer for a prompt, which begins as the training sample does", () => {
    const sample = dialogueOf(turns, ["a.png", "b.png"]);
    const whole = encodeSample(sample, tokenizer, 4);
    const prompt = encodePrompt(sample, tokenizer, 4);
    expect(Array.from(prompt.inputIds)).toEqual(
      Array.from(whole.inputIds.subarray(0, prompt.inputIds.length)),
    );
    expect(whole.labels[prompt.inputIds.length]).toBe(tokenizer.encode("no")[0]);
    expect(prompt.images).toEqual(whole.images);
    expect(learned(prompt.labels)).toEqual([]);
  });

  it("that ends with a question is a prompt as it is", () => {
    const [prompt, cut] = [turns.slice(0, 4), turns].map((some) =>
      encodePrompt(dialogueOf(some, ["a.png", "b.png"]), tokenizer, 4),
    );
    expect(prompt?.inputIds).toEqual(cut?.inputIds);
  });

  it("of ids is cut before its last run of labels, and before the pictures from there on", () => {
    const sample: Sample = {
      kind: "tokens",
      source: { file: "a.jsonl", index: 0, line: 1 },
      inputIds: Int32Array.of(1, IMAGE_SLOT, 5, 6, 7, 8, IMAGE_SLOT, 9),
      labels: Int32Array.of(-100, -100, 5, -100, 7, 8, -100, -100),
      images: ["a.png", "b.png"],
      limits: { option: "hd_num", values: [4, 9] },
    };
    const prompt = encodePrompt(sample, undefined, 1);
    expect(Array.from(prompt.inputIds)).toEqual([1, IMAGE_SLOT, 5, 6]);
    expect(prompt.images).toEqual([{ path: "a.png", limit: 4 }]);
  });

  it("with more or fewer pictures than places is refused by file, index and both counts", () => {
    const message = /^data\.json: sample 7 has 1 picture but 2 places for them \(<ImageHere>\)\.$/;
    expect(() => encodeSample(dialogueOf(turns, ["a.png"]), tokenizer, 4)).toThrow(message);
    expect(() => encodeSample(dialogueOf(turns.slice(0, 3), ["a.png", "b.png"]), tokenizer, 4)).toThrow(
      /2 pictures but 1 place /,
    );
  });

  it("needs a tokenizer", () => {
    expect(() => encodeSample(dialogueOf([]), undefined, 4)).toThrow("there is no tokenizer");
  });
});

interface ChatCase {
  name: string;
  chat: {
    query: string;
    history: [string, string][];
    meta_instruction: string;
    image: (PictureSize & { tokens: number }) | null;
  };
  input_ids: number[];
}

function pictureOf(image: ChatCase["chat"]["image"]): PictureSize & { tokens: number } {
  if (!image) throw new Error("the prompt has a picture and the case has none");
  return image;
}

function dialogueOf(turns: Turn[], images: string[] = []): Sample {
  return { kind: "dialogue", source: { file: "data.json", index: 7 }, turns, images };
}

function find(name: string): { conversation: Conversation; expected: Encoding } {
  const conversation = conversations.find((one) => one.name === name);
  const { v20, v25 } = conversation?.transformers_4_33 ?? {};
  const expected = typeof v20 === "object" ? v20 : v25;
  if (!conversation || typeof expected !== "object") throw new Error(`there is no conversation ${name}`);
  return { conversation, expected };
}

/** Rows of one sample, its pictures of the sizes that the golden case gives. */
function layOut(sample: EncodedSample, sizes: PictureSize[]) {
  const images = sizes.map(({ w, h, hd_num }): HdImage => {
    return { ...hdGrid(w, h, hd_num), pixels: new Uint8Array(), globalView: new Float32Array() };
  });
  return layoutBatch([{ sample, images }]);
}

function learned(labels: ArrayLike<number>): number[] {
  return Array.from(labels).filter((label) => label !== IGNORE);
}

function range(start: number, end: number): number[] {
  return Array.from({ length: end - start }, (_, index) => start + index);
}
