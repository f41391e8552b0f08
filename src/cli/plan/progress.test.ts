import { expect, it } from "vitest";
import { Output } from "../output/output.ts";
import { planProgress } from "./progress.ts";

function linesOf(isTTY: boolean): string[] {
  const written: string[] = [];
  const stderr = { isTTY, columns: 100, write: (text: string) => written.push(text) };
  const output = new Output({ json: false, stdout: { write: () => {} }, stderr, environment: {} });
  const tell = planProgress(output, ["policy", "words", "cards"]);
  tell("policy");
  tell("words");
  tell("cards", 0.5);
  return written;
}

it("a terminal sees the stages, and the time that is left once a stage is over", () => {
  const [first, second, third] = linesOf(true);
  expect(first).toContain(`\r${" ".repeat(21)}planning: the policy\u001b`);
  expect(second).toMatch(/planning: alternatives, room and levers, about [\d.]+ s left/);
  expect(third).toMatch(/^\r█{11}.? +planning: what cards take, about [\d.]+ s left/);
});

it("a pipe sees nothing of it", () => {
  expect(linesOf(false)).toEqual([]);
});
