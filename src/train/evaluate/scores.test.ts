import { readFileSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { anls, editDistance, exactMatch, isBetter, METRIC_NAMES, metricsOf, scoresOf } from "./scores.ts";

const metricOf = (name: keyof ReturnType<typeof metricsOf>, pairs: [answer: string, expected: string][]) =>
  metricsOf(pairs.map(([answer, expected]) => scoresOf(answer, expected)))[name];

describe("exact match", () => {
  it("ignores case and white space, and nothing else", () => {
    expect(exactMatch(" 12.50  EUR\n", "12.50 eur")).toBe(1);
    expect(exactMatch("12,50 eur", "12.50 eur")).toBe(0);
    expect(exactMatch("", "12.50")).toBe(0);
  });
});

describe("ANLS", () => {
  it("is the share of characters that agree", () => {
    expect(anls("12.50", "12.50")).toBe(1);
    expect(anls("12.58", "12.50")).toBeCloseTo(0.8, 12);
    expect(anls("invoce", "invoice")).toBeCloseTo(6 / 7, 12);
  });

  it("is 0 below one half, and kept at one half", () => {
    expect(anls("ab", "ax")).toBe(0.5);
    expect(anls("abc", "axx")).toBe(0);
    expect(anls("", "total")).toBe(0);
    expect(anls("", "")).toBe(1);
  });

  it("counts a character outside the basic plane once", () => {
    expect(anls("😀b", "😀c")).toBe(0.5);
  });
});

describe("ANLS of published examples", () => {
  // from the ANLS page of the Robust Reading Competition: "What soft drink company name is on the red disk?"
  it.each([
    ["The Coca", 0],
    ["CocaCola", 8 / 9],
    ["Coca cola", 1],
    ["Cola", 0],
    ["Cat", 0],
  ])("%s: the best of both expected answers is %f", (answer, expected) => {
    const scores = scoresOf(answer, "Coca Cola", "Coca Cola Company");
    expect(metricsOf([scores]).anls).toBeCloseTo(expected, 12);
  });
});

describe("error rates of published examples", () => {
  // Morris et al., 2004, as jiwer's tests have them, with the WER and the CER
  it.each([
    ["X", "X", 0, 0],
    ["X", "X X Y Y", 3, 6],
    ["X Y X", "X Z", 2 / 3, 3 / 5],
    ["X", "Y", 1, 1],
    ["X", "Y Z", 2, 3],
  ])("%s answered as %s", (expected, answer, wer, cer) => {
    expect(metricOf("wer", [[answer, expected]])).toBeCloseTo(wer, 12);
    expect(metricOf("cer", [[answer, expected]])).toBeCloseTo(cer, 12);
  });

  it("sum errors and lengths over all answers, as in the cards of Hugging Face's evaluate", () => {
    const pairs: [string, string][] = [
      ["this is the prediction", "this is the reference"],
      ["there is an other sample", "there is another one"],
    ];
    expect(metricOf("cer", pairs)).toBeCloseTo(0.34146341463414637, 15);
    expect(metricOf("wer", pairs)).toBe(0.5);
  });

  it("count each insertion as 1 where nothing is expected, as in jiwer 4", () => {
    expect(metricOf("cer", [["abd", ""]])).toBe(3);
    expect(metricOf("wer", [["", ""]])).toBe(0);
    const pairs: [string, string][] = [
      ["hello world", "hello world"],
      ["done", ""],
    ];
    expect(metricOf("wer", pairs)).toBe(0.5);
  });

  it("mind case and punctuation, and no white space around the text", () => {
    expect(metricOf("cer", [[" Abc\n", "abc"]])).toBeCloseTo(1 / 3, 12);
  });
});

describe("F1 over fields", () => {
  const expected = '{"menu": [{"nm": "Cake", "cnt": "2"}, {"nm": "Juice", "cnt": "1"}], "total": "9.00"}';
  const f1 = (answer: string): number | undefined => metricOf("field_f1", [[answer, expected]]);

  it("counts a wrong value as missing and as surplus, whatever the order", () => {
    expect(f1('{"total": "9.00", "menu": [{"cnt": "1", "nm": "Juice"}, {"nm": "cake", "cnt": "2"}]}')).toBe(
      0.8,
    );
    expect(f1(expected)).toBe(1);
    expect(f1('{"total": "9.00"}')).toBeCloseTo(2 / 6, 12);
  });

  it("counts a field as often as it is expected", () => {
    expect(metricOf("field_f1", [['{"a": ["x", "x"]}', '{"a": ["x"]}']])).toBeCloseTo(2 / 3, 12);
  });

  it("is 0 for an answer that is not JSON, and absent where none is expected", () => {
    expect(f1("Cake")).toBe(0);
    expect(metricOf("field_f1", [["{}", "12.50"]])).toBeUndefined();
    expect(metricOf("field_f1", [["{}", "{}"]])).toBe(1);
  });

  it("is micro-averaged: a receipt with more fields counts for more", () => {
    const pairs: [string, string][] = [
      [expected, expected],
      ["", '{"total": "1.00"}'],
    ];
    expect(metricOf("field_f1", pairs)).toBeCloseTo(10 / 11, 12);
  });
});

describe("golden cases", () => {
  // by jiwer 4.0.0, anls 0.0.2 and donut-python's JSONParseEvaluator.cal_f1, on texts drawn at random
  const golden = new URL("../../../tests/golden/metrics/cases.jsonl", import.meta.url);
  const cases = readFileSync(golden, "utf8")
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));

  it.each(cases)("agree with other programs: %o", (one) => {
    const answers: string[] = one.answers;
    const scored = answers.map((answer, index) => scoresOf(answer, one.expected[index]));
    expect(metricsOf(scored).wer).toBeCloseTo(one.wer, 12);
    expect(metricsOf(scored).cer).toBeCloseTo(one.cer, 12);
    for (const [index, { anls }] of scored.entries())
      if (anls?.part !== 0.5) expect(anls?.part).toBeCloseTo(one.anls[index], 12); // the package has 0 at one half
    const fields = one.answerFields.map((answer: unknown, index: number) =>
      scoresOf(JSON.stringify(answer), JSON.stringify(one.expectedFields[index])),
    );
    expect(metricsOf(fields).field_f1).toBeCloseTo(one.fieldF1, 12);
  });
});

describe("every metric", () => {
  it("is perfect for the expected answer, and no answer is better", () => {
    const text = fc.oneof(fc.string(), fc.json());
    fc.assert(
      fc.property(text, text, (answer, expected) => {
        const [perfect, given] = [expected, answer].map((each) => metricsOf([scoresOf(each, expected)]));
        for (const name of METRIC_NAMES) {
          if (perfect?.[name] === undefined) expect(given?.[name]).toBeUndefined();
          else expect(isBetter(name, given![name]!, perfect[name])).toBe(false);
        }
        expect(perfect).toMatchObject({ exact_match: 1, anls: 1, cer: 0, wer: 0 });
      }),
    );
  });
});

describe("edit distance", () => {
  it.each([
    ["kitten", "sitting", 3],
    ["", "abc", 3],
    ["abc", "", 3],
    ["flaw", "lawn", 2],
  ])("%s to %s is %i", (left, right, distance) => {
    expect(editDistance([...left], [...right])).toBe(distance);
  });

  it("is a metric: symmetric, 0 for equals only, and keeps the triangle inequality", () => {
    const word = fc.array(fc.constantFrom("a", "b", "c"), { maxLength: 8 });
    fc.assert(
      fc.property(word, word, word, (x, y, z) => {
        expect(editDistance(x, y)).toBe(editDistance(y, x));
        expect(editDistance(x, y) === 0).toBe(x.join("") === y.join(""));
        expect(editDistance(x, z)).toBeLessThanOrEqual(editDistance(x, y) + editDistance(y, z));
      }),
    );
  });
});
