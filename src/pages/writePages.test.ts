import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import sharp from "sharp";
import { afterAll, beforeEach, describe, expect, test, vi } from "vitest";
import { readSamples } from "../data/samples/samples.ts";
import { type TextStyle, textWidth } from "../drawing/lettering.ts";
import { UserError } from "../errors.ts";
import { pageDice } from "./dice.ts";
import { drawForm } from "./form.ts";
import { drawReceipts } from "./receipts.ts";
import { drawTable } from "./table.ts";
import { type PageRecord, writePages } from "./writePages.ts";

/** Every text that a page draws, with its place. */
const drawn: { text: string; x: number; y: number; style: TextStyle }[] = [];
vi.mock("../drawing/lettering.ts", async (load) => {
  const lettering = await load<typeof import("../drawing/lettering.ts")>();
  const textPath: typeof lettering.textPath = (text, x, y, style) => {
    drawn.push({ text, x, y, style });
    return lettering.textPath(text, x, y, style);
  };
  return { ...lettering, textPath };
});

const folder = mkdtempSync(join(tmpdir(), "lorafit-pages-"));
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => {
  drawn.length = 0;
});

describe.each([drawReceipts, drawForm, drawTable])("$name", (draw) => {
  const size = fc.constantFrom(
    { width: 3840, height: 2160 },
    { width: 2160, height: 3840 },
    { width: 2880, height: 2880 },
    { width: 5760, height: 1440 },
    { width: 1440, height: 5760 },
  );

  test("prints every answer on the page, and asks nothing twice", () => {
    fc.assert(
      fc.property(fc.nat(1000), fc.nat(1000), size, (seed, page, pageSize) => {
        drawn.length = 0;
        const { questions } = draw(pageDice(seed, page), pageSize);
        const texts = drawn.map(({ text }) => text);
        for (const { question, answer } of questions) {
          expect(answer, question).not.toBe("");
          expect(
            texts.some((text) => text.includes(answer)),
            `${question} ${answer}`,
          ).toBe(true);
        }
        expect(new Set(questions.map(({ question }) => question)).size).toBe(questions.length);
        expect(questions.length).toBeGreaterThan(5);
      }),
      { numRuns: 20 },
    );
  });

  test("keeps every text within the page", () => {
    fc.assert(
      fc.property(fc.nat(1000), fc.nat(1000), size, (seed, page, pageSize) => {
        drawn.length = 0;
        draw(pageDice(seed, page), pageSize);
        for (const { text, x, y, style } of drawn) {
          const start =
            x - textWidth(text, style) * { start: 0, middle: 0.5, end: 1 }[style.anchor ?? "start"];
          const turningPixels = draw === drawReceipts ? 20 : 0;
          expect(start, text).toBeGreaterThanOrEqual(turningPixels);
          expect(start + textWidth(text, style), text).toBeLessThanOrEqual(pageSize.width - turningPixels);
          expect(y, text).toBeGreaterThanOrEqual(style.sizePixels);
          expect(y, text).toBeLessThanOrEqual(pageSize.height);
        }
      }),
      { numRuns: 20 },
    );
  });
});

test("a receipt adds up", () => {
  drawReceipts(pageDice(3, 0), { width: 1000, height: 2160 });
  const amounts = drawn.filter(({ text, style }) => style.anchor === "end" && /^[\d,]+\.\d\d$/.test(text));
  const cents = amounts.map(({ text }) => Math.round(Number(text.replaceAll(",", "")) * 100));
  const [net, vat, total] = cents.splice(-3);
  expect(total).toBe(cents.reduce((sum, price) => sum + price, 0));
  expect((net ?? 0) + (vat ?? 0)).toBe(total);
});

test("the data set can be read back, pictures and all", async () => {
  const options = { count: 4, evalCount: 2, turns: 3, width: 480, height: 270 };
  const { data, evalData } = await writePages(join(folder, "set"), options);
  expect(readFileSync(data, "utf8")).toBe("pages.json 0.004\n");
  const samples = readSamples(data);
  expect(samples).toHaveLength(4);
  expect(readSamples(evalData ?? "")).toHaveLength(2);
  for (const sample of samples) {
    if (sample.kind !== "dialogue") throw new Error(sample.kind);
    expect(sample.turns.map(({ role }) => role)).toEqual([
      "user",
      "assistant",
      "user",
      "assistant",
      "user",
      "assistant",
    ]);
    expect(sample.turns[0]?.text).toMatch(/^<ImageHere>.+\?$/);
    expect(await sharp(sample.images[0]).metadata()).toMatchObject({
      width: 480,
      height: 270,
      hasAlpha: false,
    });
  }
});

test("the same seed writes the same bytes, another seed others", async () => {
  const digests = [];
  for (const [run, seed] of [1, 1, 2].entries()) {
    await writePages(join(folder, `run${run}`), { count: 3, seed, width: 320, height: 180 });
    digests.push(digestOf(join(folder, `run${run}`)));
  }
  expect(digests[1]).toEqual(digests[0]);
  expect(digests[2]).not.toEqual(digests[0]);
});

test("training and held-out pages differ in picture and questions", async () => {
  const { data } = await writePages(join(folder, "split"), {
    count: 3,
    evalCount: 3,
    width: 64,
    height: 64,
    turns: 99,
  });
  const read = (name: string) => JSON.parse(readFileSync(join(data, "..", name), "utf8")) as PageRecord[];
  const conversations = [...read("pages.json"), ...read("eval.json")].map((record) =>
    JSON.stringify(record.conversations),
  );
  expect(new Set(conversations).size).toBe(6);
});

test("progress counts up to the number of pages", async () => {
  const seen: string[] = [];
  const onProgress = (done: number, total: number) => seen.push(`${done}/${total}`);
  await writePages(join(folder, "progress"), { count: 3, evalCount: 1, width: 64, height: 64, onProgress });
  expect(seen).toEqual(["1/4", "2/4", "3/4", "4/4"]);
});

test.each([
  { count: 0 },
  { count: 1.5 },
  { count: 1, turns: 0 },
  { count: 1, width: 0 },
  { count: 1, width: 4000, height: 100 },
])("%o is refused before anything is written", async (options) => {
  await expect(writePages(join(folder, "refused"), options)).rejects.toThrow(UserError);
  expect(readdirSync(folder)).not.toContain("refused");
});

function digestOf(path: string): string[] {
  return readdirSync(path, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
    .sort()
    .map((file) => createHash("sha256").update(readFileSync(file)).digest("hex"));
}
