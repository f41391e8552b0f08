/**
 * Whole runs by real processes under memory limits: in every step each rank needs the memory of its own plan,
 * on the device and on the host.
 */
import { describe, it } from "vitest";
import { expectPlanned, makeUnevenRuns } from "./unevenRun.ts";

const runs = await makeUnevenRuns();

/** Cases that 3 ranks run too, where they divide the work in another way than 2. */
const UNEVEN = ["micro-batches of their own", "a shared base in NF4", "shared rows"];

describe.each([
  [2, runs.cases(2)],
  [3, runs.cases(3).filter(([name]) => UNEVEN.includes(name))],
])("each of %i ranks needs the memory of its own plan in every step:", (count, cases) => {
  it.each(cases)("%s", async (_, options) => {
    expectPlanned(await runs.peaksOf(count, options));
  });
});
