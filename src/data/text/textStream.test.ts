import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TextStream } from "./textStream.ts";
import { trainTokenizer } from "./tinyTokenizer.ts";
import { loadTokenizer, type Tokenizer } from "./tokenizer.ts";

const folder = mkdtempSync(join(tmpdir(), "text-stream-"));
let tokenizer: Tokenizer;
beforeAll(async () => {
  const texts = ["the total of the receipt is 12.50 euro", "a total of two receipts, the end of the text"];
  writeFileSync(join(folder, "tokenizer.model"), trainTokenizer(texts, { vocabSize: 340 }));
  tokenizer = await loadTokenizer(folder);
});
afterAll(() => rmSync(folder, { recursive: true }));

function streamed(
  ids: readonly number[],
  stops: readonly string[] = [],
): { pieces: string[]; taken: number } {
  const stream = new TextStream(tokenizer, stops);
  const pieces: string[] = [];
  let taken = 0;
  for (const id of ids) {
    if (stream.stopped) break;
    pieces.push(stream.add(id));
    taken++;
  }
  return { pieces: [...pieces, stream.end()], taken };
}

const decoded = (ids: readonly number[]): string => tokenizer.decode(ids, { skipSpecial: true });
const text = fc.oneof(
  fc.string({ unit: "grapheme" }),
  fc.constantFrom("the total", " of  the", "日本€", "🙂 end"),
);

test("pieces of any text add up to it, and none ends within a character", () => {
  fc.assert(
    fc.property(fc.array(text, { maxLength: 8 }), (parts) => {
      const ids = tokenizer.encode(parts.join(""), { specials: false });
      const { pieces } = streamed(ids);
      expect(pieces.join("")).toBe(decoded(ids));
      if (!parts.join("").includes("\ufffd")) expect(pieces.join("\n")).not.toContain("\ufffd");
    }),
    { numRuns: 300 },
  );
});

test("pieces of any ids add up to their text, broken characters and control tokens among them", () => {
  const id = fc.integer({ min: 0, max: 339 });
  fc.assert(
    fc.property(fc.array(id, { maxLength: 30 }), (ids) => {
      expect(streamed(ids).pieces.join("")).toBe(decoded(ids));
    }),
    { numRuns: 500 },
  );
});

test("a stop text ends the stream where it begins, whatever tokens it lies across", () => {
  const stops = ["receipt is", "of the", "🙂", "\n\n", "12.5"];
  fc.assert(
    fc.property(
      fc.array(fc.oneof(text, fc.constantFrom(...stops)), { maxLength: 8 }),
      fc.subarray(stops, { minLength: 1 }),
      (parts, chosen) => {
        const ids = tokenizer.encode(parts.join(""), { specials: false });
        const whole = decoded(ids);
        const first = Math.min(...chosen.map((stop) => whole.indexOf(stop)).filter((at) => at >= 0));
        const { pieces, taken } = streamed(ids, chosen);
        expect(pieces.join("")).toBe(Number.isFinite(first) ? whole.slice(0, first) : whole);
        if (!Number.isFinite(first)) return;
        expect(chosen.some((stop) => decoded(ids.slice(0, taken)).includes(stop))).toBe(true);
      },
    ),
    { numRuns: 300 },
  );
});

test("the beginning of a stop text is held back, and passed on when it goes on otherwise", () => {
  const ids = tokenizer.encode("the end of a text", { specials: false });
  const stream = new TextStream(tokenizer, ["the end of the text"]);
  let seen = "";
  for (const id of ids) {
    seen += stream.add(id);
    expect("the end of a text".startsWith(seen)).toBe(true);
    expect(seen.length === 0 || seen.length > "the end of ".length).toBe(true);
  }
  expect(seen + stream.end()).toBe("the end of a text");
});
