/**
 * Whole runs by real processes under memory limits: in every step each rank needs the memory of its own plan,
 * on the device and on the host.
 */
import { beforeAll, describe, it } from "vitest";
import type { StepPeaks } from "../../src/train/facts/peaks.ts";
import { expectPlanned, makeUnevenRuns } from "./unevenRun.ts";

const runs = await makeUnevenRuns();

/** Cases that 3 ranks run too, where they divide the work in another way than 2. */
const UNEVEN = ["micro-batches of their own", "a shared base in NF4", "shared rows"];

/** All cases, on a busy machine. */
const TIMEOUT_MS = 600_000;

describe.each([
  [2, runs.cases(2)],
  [3, runs.cases(3).filter(([name]) => UNEVEN.includes(name))],
])("each of %i ranks needs the memory of its own plan in every step:", (count, cases) => {
  let peaks: StepPeaks[][][];
  beforeAll(async () => {
    peaks = await runs.peaksOf(
      count,
      cases.map(([, options]) => options),
      { timeoutMs: TIMEOUT_MS },
    );
  }, TIMEOUT_MS);

  it.each(cases.map(([name], index) => [name, index] as const))("%s", (_, index) => {
    expectPlanned(peaks[index]!);
  });
});
