/** README's plan, its table of what fits on which card, and the marks of docs/memory.md are what the planner says. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { type BaseName, longestThatFits, shownLength } from "../../bench/fits.ts";
import { answerOf } from "../../src/cli/plan/answer.ts";
import { officialOf } from "../../src/cli/plan/compareOfficial.ts";
import { PlanOptions } from "../../src/cli/plan/options.ts";
import { questionOf } from "../../src/cli/plan/question.ts";
import { planText } from "../../src/cli/plan/report.ts";

const linesOf = (document: string): string[] =>
  readFileSync(new URL(`../../${document}`, import.meta.url), "utf8").split("\n");
const rows = linesOf("README.md")
  .filter((line) => /^\| +(VRAM|\d+ GiB) \|/.test(line))
  .map((line) => line.split("|").map((cell) => cell.trim()));

it.each([
  [8, "bf16, resident"],
  [8, "NF4, resident"],
  [16, "bf16, streamed"],
] as const)("the longest sequence in %i GiB, %s", (gib, base: BaseName) => {
  const [header, ...cards] = rows;
  const shown = cards.find(([, card]) => card === `${gib} GiB`)![header!.indexOf(base)];
  expect(shown).toBe(shownLength(longestThatFits(gib, base)));
});

it("the first plan, line by line, numbers within a twentieth", () => {
  const readme = linesOf("README.md");
  const start = readme.findIndex((line) => line.startsWith("    $ npx lorafit plan --gpu v100-32gb"));
  const shown = readme.slice(
    start + 1,
    readme.findIndex((line) => line.startsWith("(Shortened")),
  );
  const question = questionOf(PlanOptions.parse({ gpu: "v100-32gb", hd_num: 55, max_length: 16_384 }));
  const answer = answerOf(question);
  answer.official = officialOf(question, answer.plan);
  const told = planText(question, answer).split("\n");
  const words = (line: string): string => line.replaceAll(NUMBER, "0").replaceAll(/[█▉▊▋▌▍▎▏ ]+/g, " ");
  const numbers = (line: string): number[] => (line.match(NUMBER) ?? []).map(Number);
  for (const line of shown.map((indented) => indented.slice(4))) {
    if (line === "  ...") continue;
    const alike = told.filter((one) => words(one) === words(line));
    const isTold = alike.some((one) =>
      numbers(one).every(
        (number, at) => Math.abs(number - numbers(line)[at]!) <= Math.max(0.05, number / 20),
      ),
    );
    expect(isTold, `${line}\nis told as\n${alike.join("\n")}`).toBe(true);
  }
});

const NUMBER = /\d+(\.\d+)?/g;

it.each([
  ["max_length in 8 GiB, bf16 streamed", 8, "bf16, streamed"],
  ["max_length in 8 GiB, NF4 resident", 8, "NF4, resident"],
] as const)("docs/memory.md: %s", (question, gib, base) => {
  const [row] = linesOf("docs/memory.md").filter((line) => line.startsWith(`| ${question} `));
  expect(row!.split("|")[2]!.trim()).toBe(longestThatFits(gib, base).toLocaleString("en-US"));
});
