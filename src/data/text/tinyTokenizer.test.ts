import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { readPieces } from "./sentencepieceModel.ts";
import { trainTokenizer } from "./tinyTokenizer.ts";
import { type InternLM2Tokenizer, loadTokenizer } from "./tokenizer.ts";

const TEXTS = [
  "Which company issued this receipt and what is the total? The total is $37.50, issued by ACME on 2024-04-09.",
  "user\nWhat is the date of the receipt?\nassistant\nThe date of the receipt is 2024-04-09.",
  "价格：99.80元 价格 价格",
];

describe("a trained tokenizer", () => {
  const folder = mkdtempSync(join(tmpdir(), "lorafit-trainer-"));
  const bytes = trainTokenizer(TEXTS, { vocabSize: 400 });
  const pieces = readPieces(bytes, "tokenizer.model");
  let tokenizer: InternLM2Tokenizer;
  beforeAll(async () => {
    writeFileSync(join(folder, "tokenizer.model"), bytes);
    tokenizer = await loadTokenizer(folder);
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  it("is laid out like the official one, turn markers last", () => {
    expect(pieces.length).toBe(400);
    expect(pieces.slice(0, 4).map(({ text }) => text)).toEqual(["<unk>", "<s>", "</s>", "<0x00>"]);
    expect(new Set(pieces.map(({ text }) => text)).size).toBe(400);
    expect([tokenizer.vocabSize, tokenizer.bosId, tokenizer.eosId]).toEqual([400, 1, 2]);
    expect([tokenizer.turnEndId, tokenizer.turnStartId]).toEqual([398, 399]);
  });

  it("learned words, and left digits apart", () => {
    const learned = pieces.filter(({ kind }) => kind === "normal").map(({ text }) => text);
    expect(learned).toContain("\u2581receipt");
    expect(learned.filter((text) => /\p{N}/u.test(text) && text.length > 1)).toEqual([]);
    expect(tokenizer.encode(" receipt").length).toBe(1);
    expect(tokenizer.encode("2024").length).toBe(4);
  });

  it("splits a turn at its header, whatever the answer begins with", () => {
    for (const answer of ["The total", "9", "$37", "价格"]) {
      const apart = [...tokenizer.encode("assistant\n"), ...tokenizer.encode(answer)];
      expect(tokenizer.encode(`assistant\n${answer}`)).toEqual(apart);
    }
  });
});

it("a vocabulary that the texts don't fill ends in unused pieces", () => {
  const pieces = readPieces(trainTokenizer(["ab"], { vocabSize: 500 }), "tokenizer.model");
  expect(pieces.length).toBe(500);
  expect(new Set(pieces.map(({ text }) => text)).size).toBe(500);
  expect(pieces.slice(-2).map(({ text }) => text)).toEqual(["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"]);
});

it("the same texts make the same bytes", () => {
  expect(trainTokenizer(TEXTS, { vocabSize: 350 })).toEqual(trainTokenizer(TEXTS, { vocabSize: 350 }));
});

it("a vocabulary that can't hold bytes and control tokens is refused", () => {
  expect(() => trainTokenizer(TEXTS, { vocabSize: 260 })).toThrow("A vocabulary of 260 is too small");
  expect(readPieces(trainTokenizer(TEXTS, { vocabSize: 261 }), "tokenizer.model").length).toBe(261);
});
