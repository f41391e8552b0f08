/**
 * The way of CUDA from the command to the driver, on a card that isn't there: libtorch's own allocator, streams and operators run, and
 * only kernels do nothing. What is planned is held to what libtorch then allocates and reserves.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readRecords, type StepRecord } from "../../src/train/runLog.ts";
import { lorafit } from "../e2e/lorafit.ts";
import { Phantom, type PhantomCard, phantomProblem } from "./phantom/phantom.ts";

const GIB = 2 ** 30;
const H100: PhantomCard = { name: "NVIDIA H100 80GB HBM3", capability: 9.0, memoryBytes: 79.1 * GIB };
const TURING: PhantomCard = {
  name: "NVIDIA T4",
  capability: 7.5,
  memoryBytes: 14.5 * GIB,
  multiprocessors: 40,
};

const problem = phantomProblem();
if (problem) console.warn(`SKIPPED: nothing runs on a phantom card: ${problem}`);

describe.skipIf(problem)("on a phantom card", () => {
  const folder = mkdtempSync(join(tmpdir(), "lorafit-on-phantom-"));
  const model = join(folder, "tiny");
  const pages = join(folder, "pages");
  let phantom: Phantom;

  beforeAll(() => {
    phantom = new Phantom();
    const shape = ["--layers", "3", "--hidden", "512", "--heads", "4", "--kv-heads", "2", "--ffn", "1024"];
    for (const args of [
      ["tiny", "--output", model, "--dtype", "bf16", "--vocab", "4096", ...shape],
      ["pages", "--output", pages, "--count", "4"],
    ]) {
      const { code, stderr } = lorafit(args);
      if (code !== 0) throw new Error(stderr);
    }
  });
  afterAll(() => {
    phantom[Symbol.dispose]();
    rmSync(folder, { recursive: true });
  });

  const train = (name: string, flags: string[], card: PhantomCard) => {
    const output = join(folder, name);
    const fixed = [
      "--model",
      model,
      "--data",
      join(pages, "data.txt"),
      "--output",
      output,
      "--device",
      "cuda:0",
    ];
    const most = ["--max-steps", "3", "--gradient-accumulation", "2", "--planned-step", "--no-shuffle"];
    const run = phantom.lorafit(["train", ...fixed, "--hd-num", "1", ...most, ...flags], card);
    return { ...run, steps: () => readRecords<StepRecord>(join(output, "steps.jsonl")) };
  };

  test.each([
    ["all on the card", [], H100],
    ["boundaries on the host", ["--boundaries", "host"], H100],
    [
      "attention by groups, small tiles",
      ["--head-groups", "2", "--mlp-tile", "512", "--loss-chunk", "64"],
      H100,
    ],
    ["graphs kept", ["--keep", "all"], H100],
    ["int8", ["--base", "int8"], H100],
    ["NF4, int8 head", ["--base", "nf4", "--head-base", "int8"], H100],
    ["fp8", ["--base", "fp8"], H100],
    ["fp16 on a card without bf16", [], TURING],
    ["NF4 on a card without bf16", ["--base", "nf4"], TURING],
  ] as const)("a step takes what was planned, to the byte allocated: %s", async (name, flags, card) => {
    const { code, stderr, steps, report } = train(name, [...flags], card);
    expect(stderr).not.toMatch(/defect/);
    expect(code, stderr).toBe(0);
    expect(report!.violations).toEqual([]);
    const records = await steps();
    expect(records).toHaveLength(3);
    for (const step of records) {
      expect(step.peakBytes).toBe(step.plannedPeakBytes);
      expect(Math.abs(step.reservedPeakBytes! / step.plannedReservedPeakBytes! - 1)).toBeLessThan(0.03);
    }
  });
});
