/** The answers of the GPU bench to its goals, from rows as a card would give them. */
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { goalsTable } from "../../bench/gpu/goals.ts";
import { isSettled, Journal } from "../../bench/gpu/journal.ts";
import { casesOf, type GpuCase, memoryCases, necessaryFlops, titleOf } from "../../bench/gpu/matrix.ts";
import type { Outcome, Row } from "../../bench/gpu/tables.ts";
import { GIB } from "../../src/errors.ts";

const PAGE: GpuCase = { size: "7b", hdNum: 91, rank: 64, base: "bf16", placement: "resident" };

function took(seconds: number, peakGib: number): Outcome {
  const peaks = { peakBytes: peakGib * GIB, reservedPeakBytes: peakGib * GIB };
  return { seconds, steadiness: 1, ...peaks, dataStallShare: 0.001, hiddenShare: undefined };
}

function row(change: Partial<GpuCase>, seconds: number, peakGib: number, plain?: Outcome): Row {
  const outcomes = { lorafit: took(seconds, peakGib), ...(plain && { plain }) };
  const planned = { allocatedBytes: peakGib * GIB, reservedBytes: peakGib * GIB };
  return { case: { ...PAGE, ...change }, outcomes, planned };
}

/** Returns "yes", "no" or "-": the answer to the goal with these words. */
function answerOf(words: string, rows: readonly Row[], flopsPerSecond = 1): string {
  const lines = goalsTable(rows, flopsPerSecond, false).split("\n");
  return lines
    .find((line) => line.includes(words))!
    .split("|")
    .at(-2)!
    .trim();
}

test("no goal is answered before it is measured", () => {
  const lines = goalsTable([], 0, false).split("\n").slice(2);
  for (const line of lines.filter(Boolean)) expect(line).toMatch(/\| not measured yet \| - \|$/);
});

test("speed in a third of the peer's memory needs both in one configuration", () => {
  const words = "a third of its peak memory";
  const plain = took(2, 36);
  const resident = row({}, 1, 20, plain);
  expect(answerOf(words, [resident])).toBe("no"); // twice as fast, but in more than half of the memory
  expect(answerOf(words, [resident, row({ base: "nf4", placement: "offloadedAhead" }, 1.5, 8)])).toBe("no");
  expect(answerOf(words, [resident, row({ base: "nf4", placement: "offloadedAhead" }, 1.3, 8)])).toBe("yes");
  expect(answerOf(words, [row({}, 1, 20)])).toBe("-");
});

test.each([
  ["NF4 at most 10 %", { base: "nf4" }, 1.09, 1.11],
  ["fp8 at least 1.4", { base: "fp8" }, 0.71, 0.72],
  ["boundaries on the host", { placement: "offloadedAhead" }, 1.04, 1.06],
] as const)("%s: by the seconds of the page", (words, change, yes, no) => {
  for (const [seconds, answer] of [
    [yes, "yes"],
    [no, "no"],
  ] as const)
    expect(answerOf(words, [row({}, 1, 20), row(change, seconds, 10)])).toBe(answer);
});

test("streaming is judged at 16,384 tokens, by the faster of its ways", () => {
  const long = casesOf("7b", false).filter((each) => titleOf(each).includes("16,384 tokens"));
  const rows = long.map((each, at) => ({ ...row({}, [1, 0.9, 1.5, 1.25][at]!, 10), case: each }));
  expect(long.map(({ placement }) => placement)).toEqual(["resident", "planned", "streamedAhead", "planned"]);
  expect(answerOf("streamed weights", rows)).toBe("yes");
  expect(answerOf("streamed weights", rows.slice(0, 3))).toBe("no");
});

test("the matrix rate is counted at every length from 8k to 16k, each by its fastest way", () => {
  const words = "measured matrix rate";
  const rate = necessaryFlops(PAGE) / 0.6;
  expect(answerOf(words, [row({}, 1.1, 20), row({ placement: "planned" }, 1, 30)], rate)).toBe("yes");
  expect(answerOf(words, [row({}, 1.1, 20)], rate)).toBe("no");
  expect(answerOf(words, [row({ hdNum: 55 }, 100, 20)], rate)).toBe("-"); // 6,953 tokens
});

test("a cap holds where the page has trained and reserved no more; a plan where nothing is further off", () => {
  const capped = (base: "nf4" | "bf16", gib: number): Row =>
    row({ base, placement: "planned", capBytes: 8 * GIB }, 1, gib);
  expect(answerOf("8 GiB, nf4", [capped("nf4", 7.9)])).toBe("yes");
  expect(answerOf("8 GiB, bf16", [capped("nf4", 7.9)])).toBe("-");
  const failed = { ...capped("bf16", 1), outcomes: { lorafit: { failed: "out of memory" } } };
  expect(answerOf("8 GiB, bf16", [failed])).toBe("no");
  const off = { ...row({}, 1, 10.2), planned: { allocatedBytes: 10 * GIB, reservedBytes: 10 * GIB } };
  expect(answerOf("measured memory as planned", [row({}, 1, 20), off])).toBe("no");
  expect(answerOf("measured memory as planned", [row({}, 1, 20)])).toBe("yes");
});

test("no two cases have one name, and one command has every axis that is asked for", () => {
  for (const cases of [casesOf("7b", true), casesOf("7b", false), memoryCases("7b")])
    expect(new Set(cases.map(titleOf)).size).toBe(cases.length);
  const cases = casesOf("7b", false);
  const of = <T>(pick: (one: GpuCase) => T): T[] => [...new Set(cases.map(pick))];
  expect(of(({ hdNum }) => hdNum).sort((a, b) => a - b)).toEqual([9, 16, 25, 55, 91]);
  expect(of(({ rank }) => rank).sort()).toEqual([16, 64]);
  expect(of(({ base }) => base).sort()).toEqual(["bf16", "fp8", "nf4"]);
  const caps = of(({ capBytes }) => (capBytes ?? 0) / GIB);
  expect(caps.sort((a, b) => a - b)).toEqual([0, 8, 16, 24, 32, 48, 80]);
});

test("a journal keeps what counts: of this machine and program, the last word, whatever a kill cut short", () => {
  const folder = mkdtempSync(join(tmpdir(), "journal-"));
  const path = join(folder, "a.jsonl");
  const open = (machine: string, program: string): Journal =>
    new Journal(path, { machine, programs: { lorafit: program, plain: "p", kernels: "p" } });
  const journal = open("card", "one");
  journal.add({ case: PAGE, side: "lorafit", steps: 1, outcome: { failed: "lost" } });
  journal.add({ case: PAGE, side: "lorafit", steps: 1, outcome: took(1, 2) });
  journal.add({ case: PAGE, side: "plain", steps: 1, outcome: took(3, 4) });
  expect(open("card", "one").rows([PAGE])[0]!.outcomes).toEqual({ lorafit: took(1, 2), plain: took(3, 4) });
  expect(Object.keys(open("card", "two").rows([PAGE])[0]!.outcomes)).toEqual(["plain"]);
  expect(open("another", "one").rows([PAGE])).toEqual([]);
  expect(readFileSync(path, "utf8").trim().split("\n")).toHaveLength(3); // lines are only ever added
  rmSync(folder, { recursive: true });
});

test("memory that ran out is an answer; what failed otherwise is tried again", () => {
  const failed = (message: string): boolean =>
    isSettled({ case: PAGE, side: "plain", steps: 1, outcome: { failed: message } });
  expect(failed("torch.OutOfMemoryError: CUDA out of memory. Tried")).toBe(true);
  expect(failed("ModuleNotFoundError: No module named 'peft'")).toBe(false);
  expect(failed("no answer within 300 s")).toBe(false);
});
