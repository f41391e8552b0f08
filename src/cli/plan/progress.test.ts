import { expect, it } from "vitest";
import { Output } from "../output/output.ts";
import { planProgress } from "./progress.ts";

function planned(isTTY: boolean): {
  written: string[];
  step(ms: number, runs: number): void;
  tell: (stage: "policy" | "details" | "page") => void;
} {
  const written: string[] = [];
  let nowMs = 0;
  const now = (): number => nowMs;
  const stderr = { isTTY, columns: 100, write: (text: string) => written.push(text) };
  const output = new Output({ json: false, stdout: { write: () => {} }, stderr, environment: {}, now });
  const { tell, onDryRun } = planProgress(output, ["policy", "details", "page"], now);
  const step = (ms: number, runs: number): void => {
    for (let run = 0; run < runs; run++) {
      nowMs += ms;
      onDryRun();
    }
  };
  return { written, step, tell };
}

it("a terminal sees the fraction after every dry run, and the time that is left", () => {
  const { written, step, tell } = planned(true);
  tell("policy");
  expect(written.at(-1)).toContain(`\r${" ".repeat(20)} 0 %: looking for the fastest policy that fits`);
  step(100, 5);
  expect(written.length).toBe(6);
  expect(written.at(-1)).toMatch(/^\r█.* 7 %: .*, about \d.* left/);
  tell("page");
  expect(written.at(-1)).toMatch(/ \d\d %: planning other sizes and ranks, about/);
});

it("a pipe gets a line every ten seconds, and none for a short plan", () => {
  const short = planned(false);
  short.tell("policy");
  short.step(100, 50);
  expect(short.written).toEqual([]);
  const long = planned(false);
  long.tell("policy");
  long.step(1000, 25);
  expect(long.written.length).toBe(2);
  expect(long.written[0]).toMatch(/^planning, \d+ %: .*, about \d+ s left\n$/);
});
