import { appendFileSync, mkdtempSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { expect, it } from "vitest";
import { parseLines, readAppended, readLastLines, readSampledLines } from "./logTail.ts";

const folder = mkdtempSync(join(tmpdir(), "lorafit-log-"));
const line = (step: number): string => `${JSON.stringify({ step, loss: step / 7 })}\n`;
const steps = (bytes: Buffer): number[] => parseLines<{ step: number }>(bytes).map(({ step }) => step);

it("gives every record once, whatever pieces a log is written and read in", () => {
  const file = join(folder, "pieces.jsonl");
  const pieces = fc.array(fc.nat({ max: 60 }), { minLength: 1, maxLength: 12 });
  fc.assert(
    fc.property(fc.nat({ max: 40 }), pieces, fc.integer({ min: 1, max: 200 }), (count, cuts, mostBytes) => {
      const text = Array.from({ length: count }, (_, step) => line(step)).join("");
      writeFileSync(file, "");
      const seen: number[] = [];
      let cursor = "";
      const read = (): void => {
        for (;;) {
          const { bytes, next, isReset } = readAppended(file, cursor, mostBytes);
          expect(isReset).toBe(false);
          seen.push(...steps(bytes));
          if (next === cursor) return;
          cursor = next;
        }
      };
      let written = 0;
      for (const cut of [...cuts, text.length]) {
        appendFileSync(file, text.slice(written, written + cut));
        written += cut;
        read();
      }
      expect(seen).toEqual(Array.from({ length: count }, (_, step) => step));
    }),
  );
});

it("begins anew if the log went back, even to the same length", () => {
  const file = join(folder, "again.jsonl");
  writeFileSync(file, line(1) + line(2) + line(3));
  const { next } = readAppended(file);
  writeFileSync(file, line(1) + line(2) + line(4));
  expect(readAppended(file, next)).toMatchObject({ isReset: true });
  expect(steps(readAppended(file, next).bytes)).toEqual([1, 2, 4]);
  truncateSync(file, line(1).length);
  expect(steps(readAppended(file, next).bytes)).toEqual([1]);
});

it("goes on if the log went back and no further than what was read", () => {
  const file = join(folder, "same.jsonl");
  writeFileSync(file, line(1) + line(2));
  const { next } = readAppended(file);
  writeFileSync(file, line(1) + line(2) + line(3));
  const read = readAppended(file, next);
  expect(read.isReset).toBe(false);
  expect(steps(read.bytes)).toEqual([3]);
});

it("takes any text for a cursor, and reads from the beginning if it is none", () => {
  const file = join(folder, "cursor.jsonl");
  writeFileSync(file, line(1));
  fc.assert(
    fc.property(fc.string(), (cursor) => {
      expect(steps(readAppended(file, cursor).bytes)).toEqual([1]);
    }),
  );
});

it("skips a line that is longer than any record, and zeros, and text that is not JSON", () => {
  const file = join(folder, "odd.jsonl");
  writeFileSync(file, `${line(1)}${"x".repeat(2 ** 21)}\n${"\0".repeat(50)}\n[1]\nnull\n${line(2)}{"step":3`);
  let cursor = "";
  const seen: number[] = [];
  for (let read = readAppended(file, cursor); read.next !== cursor; read = readAppended(file, cursor)) {
    seen.push(...steps(read.bytes));
    cursor = read.next;
  }
  expect(seen).toEqual([1, 2]);
});

it("reads no symbolic link, which could lead anywhere", () => {
  const [real, link] = [join(folder, "real.jsonl"), join(folder, "link.jsonl")];
  writeFileSync(real, line(1));
  symlinkSync(real, link);
  expect(readAppended(link).bytes).toHaveLength(0);
});

it("samples whole lines from all parts of a log, and its last ones", () => {
  const file = join(folder, "long.jsonl");
  writeFileSync(file, Array.from({ length: 5000 }, (_, step) => line(step)).join(""));
  const sampled = readSampledLines(file, 10).map((text) => JSON.parse(text).step as number);
  expect(sampled).toHaveLength(10);
  sampled.forEach((step, at) => {
    expect(Math.abs(step - at * 500)).toBeLessThan(100);
  });
  expect(JSON.parse(readLastLines(file).at(-1)!)).toMatchObject({ step: 4999 });
});
