import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { findShared, golden } from "../../../tests/helpers/shared.ts";
import { UserError } from "../../errors.ts";
import { PIECE_KINDS, readPieces } from "./sentencepieceModel.ts";
import { trainTokenizer } from "./tinyTokenizer.ts";
import { type InternLM2Tokenizer, loadTokenizer } from "./tokenizer.ts";

const folder = mkdtempSync(join(tmpdir(), "lorafit-tokenizer-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Case {
  cat: string;
  text: string;
  ids: number[];
  decode: string;
  decode_skip_special: string;
}

const official = findShared("golden/tokenizer/tokenizer.model");

describe.skipIf(!official)("the official tokenizer", () => {
  const cases: Case[] = JSON.parse(readFileSync(golden("tokenizer/cases.json"), "utf8"));
  const decodeCases: Omit<Case, "text" | "cat">[] = JSON.parse(
    readFileSync(golden("tokenizer/decode_cases.json"), "utf8"),
  );
  let tokenizer: InternLM2Tokenizer;
  beforeAll(async () => {
    tokenizer = await loadTokenizer(official as string);
  });

  it("has the official ids for control tokens", () => {
    const { vocabSize, unkId, bosId, eosId, turnEndId, turnStartId } = tokenizer;
    expect([vocabSize, unkId, bosId, eosId, turnEndId, turnStartId]).toEqual([92544, 0, 1, 2, 92542, 92543]);
  });

  it.each(cases.map((one, index) => [`${index} (${one.cat})`, one] as const))(
    "encodes case %s as the official one",
    (_, one) => {
      expect(tokenizer.encode(one.text)).toEqual(one.ids);
      expect(tokenizer.encode(one.text, { bos: true })).toEqual([1, ...one.ids]);
    },
  );

  it.each(cases.map((one, index) => [`${index} (${one.cat})`, one] as const))(
    "decodes case %s as the official one",
    (_, one) => {
      expect(tokenizer.decode(one.ids)).toBe(one.decode);
      expect(tokenizer.decode([1, ...one.ids], { skipSpecial: true })).toBe(one.decode_skip_special);
    },
  );

  it.each(decodeCases.map((one, index) => [index, one] as const))(
    "decodes id list %i as the official one",
    (_, one) => {
      expect(tokenizer.decode(one.ids)).toBe(one.decode);
      expect(tokenizer.decode(one.ids, { skipSpecial: true })).toBe(one.decode_skip_special);
    },
  );

  it("spells out control tokens that a user typed", () => {
    const text = "a[UNUSED_TOKEN_145]\n[UNUSED_TOKEN_146]assistant\n</s><s><unk>";
    const ids = tokenizer.encode(text, { specials: false });
    const control = [
      tokenizer.turnEndId,
      tokenizer.turnStartId,
      tokenizer.bosId,
      tokenizer.eosId,
      tokenizer.unkId,
    ];
    expect(ids.filter((id) => control.includes(id))).toEqual([]);
    expect(tokenizer.decode(ids)).toBe(text);
  });

  it("leaves the ids of every text without control tokens alone when control tokens are off", () => {
    for (const one of cases.filter(({ cat }) => cat !== "special")) {
      if (one.text.includes("[UNUSED_TOKEN_")) continue;
      expect(tokenizer.encode(one.text, { specials: false })).toEqual(one.ids);
    }
  });
});

describe("a tokenizer of our own", () => {
  const texts = [
    "Which company issued this receipt and what is the total? The total is $37.50, issued by ACME on 2024-04-09.",
    "user\nWhat is the date of the receipt?\nassistant\nThe date of the receipt is 2024-04-09.",
    "价格：99.80元 价格 价格",
  ];
  const bytes = trainTokenizer(texts, { vocabSize: 400 });
  const pieces = readPieces(bytes, "tokenizer.model");
  let tokenizer: InternLM2Tokenizer;
  beforeAll(async () => {
    writeFileSync(join(folder, "tokenizer.model"), bytes);
    tokenizer = await loadTokenizer(folder);
  });

  it("gives any text back", () => {
    const text = fc
      .string({ unit: "binary", maxLength: 60 })
      .filter((value) => !/\u2581|<s>|<\/s>|<unk>/.test(value));
    const property = fc.property(text, fc.boolean(), (value, specials) => {
      expect(tokenizer.decode(tokenizer.encode(value, { specials }))).toBe(value);
    });
    fc.assert(property, { numRuns: 300 });
  });

  it("never makes a control token of text with control tokens off", () => {
    const part = fc.constantFrom(
      "[UNUSED_TOKEN_145]",
      "[UNUSED_TOKEN_146]",
      "<s>",
      "</s>",
      "<unk>",
      "[",
      "user\n",
      " ",
    );
    const property = fc.property(fc.array(part, { maxLength: 8 }), (parts) => {
      const ids = tokenizer.encode(parts.join(""), { specials: false });
      const kinds = ids.map((id) => pieces[id]?.kind);
      expect(kinds.filter((kind) => kind !== "normal" && kind !== "byte")).toEqual([]);
      expect(tokenizer.decode(ids)).toBe(parts.join(""));
    });
    fc.assert(property, { numRuns: 200 });
  });

  it("reads a lone surrogate as the replacement character", () => {
    expect(tokenizer.decode(tokenizer.encode("a\ud800b"))).toBe("a\ufffdb");
  });

  it("refuses ids outside the vocabulary", () => {
    expect(() => tokenizer.decode([400])).toThrow("token id 400 is outside the vocabulary of 400");
  });
});

describe("a tokenizer file that can't be used", () => {
  it("is missing: the error says where it should be", async () => {
    await expect(loadTokenizer(join(folder, "nowhere"))).rejects.toThrow(
      /There is no tokenizer at .*nowhere/,
    );
  });

  it("is cut off or mutated: a UserError or a readable model, never anything else", () => {
    const bytes = trainTokenizer(["receipt receipt"], { vocabSize: 300 });
    const property = fc.property(fc.nat(bytes.length - 1), fc.nat(255), fc.boolean(), (at, byte, cut) => {
      const mutated = cut ? bytes.slice(0, at) : bytes.with(at, byte);
      try {
        for (const piece of readPieces(mutated, "tokenizer.model"))
          expect(PIECE_KINDS[piece.kind]).toBeGreaterThan(0);
      } catch (error) {
        expect(error).toBeInstanceOf(UserError);
      }
    });
    fc.assert(property, { numRuns: 2000 });
  });

  it("lacks a control token: the error names it", async () => {
    const file = join(folder, "other.model");
    const names = Buffer.from(trainTokenizer(["ab"], { vocabSize: 300 }))
      .toString("latin1")
      .replaceAll("TOKEN_146", "TOKEN_246");
    writeFileSync(file, Buffer.from(names, "latin1"));
    await expect(loadTokenizer(file)).rejects.toThrow(/has no piece \[UNUSED_TOKEN_146\]/);
  });
});
