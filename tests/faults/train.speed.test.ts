/** A CPU's measured speed decides with which policies a run begins, and never changes them later. */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it, vi } from "vitest";
import type { Speed } from "../../src/plan/time/stepTime.ts";
import { POLICY_FILE } from "../../src/train/folder/runLog.ts";
import { makeWorkplace, resultOf, runWith } from "./trainRun.ts";

const measured: { speed: Speed | undefined } = await vi.hoisted(async () => ({ speed: undefined }));
vi.mock("../../src/plan/time/calibration.ts", async (original) => ({
  ...(await original<typeof import("../../src/plan/time/calibration.ts")>()),
  knownSpeed: () => measured.speed,
}));

/** With this speed the policy with the fewest calls is the fastest. */
const SLOW_CALLS: Speed = {
  flopsPerSecond: { float32: 1e15 },
  attentionRatios: { flash: 1, cudnn: 1, efficient: 1 },
  ...{ memoryBytesPerSecond: 1e15, linkBytesPerSecond: 1e3, kernelMs: 1, launchMs: 0, callMs: 0 },
};

const { folder, input } = await makeWorkplace();
const ids = (count: number): number[] => Array.from({ length: count }, (_, at) => 3 + (at % 90));
const data = join(folder, "long.jsonl");
const lines = [20, 3000].map((count) => JSON.stringify({ input_ids: ids(count), labels: ids(count) }));
writeFileSync(data, lines.join("\n"));

const options = { ...input, data, max_steps: 4, memory: "5MiB" };
const policiesOf = (output: string): string => readFileSync(join(output, POLICY_FILE), "utf8");

it("a run goes on with the policies that it began with, to the same bytes, though the machine has been measured since", async () => {
  const [whole, stopped, later] = ["whole", "stopped", "later"].map((name) => join(folder, name));
  await runWith({ ...options, output: whole! });
  await runWith({ ...options, output: stopped! }, { stopAfterMicroBatches: 1 });
  measured.speed = SLOW_CALLS;
  await runWith({ ...options, output: stopped!, resume: true });
  expect(policiesOf(stopped!)).toBe(policiesOf(whole!));
  expect(resultOf(stopped!)).toEqual(resultOf(whole!));
  await runWith({ ...options, output: later! }, { stopAfterMicroBatches: 1 });
  expect(policiesOf(later!)).not.toBe(policiesOf(whole!));
});
