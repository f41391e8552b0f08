/** The plans in README and the marks in docs/memory.md are the planner's answers. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { longestThatFits } from "../../bench/fits.ts";
import { answerOf } from "../../src/answer/answerOf.ts";
import { PlanOptions } from "../../src/answer/options.ts";
import { questionOf } from "../../src/answer/question.ts";
import { readFlags } from "../../src/cli/args/flags.ts";
import { planText } from "../../src/cli/plan/planText.ts";
import { optionSpecs } from "../../src/options.ts";

const linesOf = (document: string): string[] =>
  readFileSync(new URL(`../../${document}`, import.meta.url), "utf8").split("\n");

it.each(["plan --gpu v100-32gb --hd-num 55 --max-length 16384", "plan --hd-num 55 --max-length 16384"])(
  "README shows what `%s` prints, line by line, numbers within a twentieth",
  (command) => {
    const readme = linesOf("README.md");
    const after = readme.slice(readme.indexOf(`    $ npx lorafit ${command}`) + 1);
    const shown = after.slice(
      0,
      after.findIndex((line) => line !== "" && !line.startsWith("    ")),
    );
    const [, ...words] = command.split(" ");
    const { raw } = readFlags(words, optionSpecs(PlanOptions));
    const told = planText(answerOf(questionOf(PlanOptions.parse(raw)))).split("\n");
    const lines = shown.map((indented) => indented.slice(4)).filter((line) => line !== "" && line !== "...");
    expect(lines.length).toBeGreaterThan(7);
    for (const line of lines) {
      const alike = told.filter((one) => wordsOf(one) === wordsOf(line));
      const isTold = alike.some((one) =>
        numbersOf(one).every(
          (number, at) => Math.abs(number - numbersOf(line)[at]!) <= Math.max(0.05, number / 20),
        ),
      );
      expect(isTold, `${line}\nis told as\n${alike.join("\n")}`).toBe(true);
    }
  },
);

/**
 * Numbers as they are printed. Minutes are read together with their hours, because minutes may round up to
 * the next hour.
 */
const NUMBER = /\d+ h \d+ min|\d+ min \d+ s|\d[\d,]*(\.\d+)?/g;

function wordsOf(line: string): string {
  return line.replaceAll(NUMBER, "0").replaceAll(/ +/g, " ");
}

function numbersOf(line: string): number[] {
  return (line.match(NUMBER) ?? []).map((text) => {
    const [first, second = 0] = text
      .replaceAll(",", "")
      .split(/ (?:h|min) ?/)
      .map((part) => Number.parseFloat(part));
    return first! + (text.includes(" ") ? second / 60 : 0);
  });
}

it.each([
  ["max_length in 8 GiB, bf16 streamed", 8, "bf16, streamed"],
  ["max_length in 8 GiB, NF4 resident", 8, "NF4, resident"],
] as const)("docs/memory.md: %s", (question, gib, base) => {
  const [row] = linesOf("docs/memory.md").filter((line) => line.startsWith(`| ${question} `));
  expect(row!.split("|")[2]!.trim()).toBe(longestThatFits(gib, base).toLocaleString("en-US"));
});
