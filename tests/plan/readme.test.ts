/** README's table of what fits on which card is what the planner says. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { type BaseName, longestThatFits, shownLength } from "../../bench/fits.ts";

const rows = readFileSync(new URL("../../README.md", import.meta.url), "utf8")
  .split("\n")
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
