import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { Planner, type SizedWorkload, shortage } from "../../src/plan/planner.ts";
import { isHere, machineBytes, marginOf, usableMachineBytes } from "../../src/plan/roomToPlanFor.ts";
import { fastestPlan, leastMemory, planRungs, solve } from "../../src/plan/search.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { speedOf } from "../../src/plan/time/stepTime.ts";
import { smallConfig } from "../helpers/randomModel.ts";

const GIB = 2 ** 30;
const folder = mkdtempSync(join(tmpdir(), "gpus-"));
afterAll(() => rmSync(folder, { recursive: true }));

describe("the room that a plan may use", () => {
  it("leaves 3 % of a card free, and 512 MiB of a small card that may drive a display", () => {
    expect(marginOf(findDevice("a100-80gb"))).toBeCloseTo(0.03 * 79.1 * GIB, -6);
    expect(marginOf(findDevice("rtx-4060"))).toBe(GIB / 2);
    expect(marginOf(findDevice("t4"))).toBeLessThan(GIB / 2);
    expect(marginOf(findDevice("rtx-5090"))).toBeCloseTo(0.03 * 31.3 * GIB, -6);
  });

  it("leaves a part of this machine's memory to the system", () => {
    expect(usableMachineBytes(8 * GIB)).toBe(7 * GIB);
    expect(usableMachineBytes(100 * GIB)).toBe(95 * GIB);
    expect(usableMachineBytes()).toBeLessThan(machineBytes());
  });

  it("knows which cards are in this machine from the driver, and a laptop's card is not the desktop card", () => {
    for (const [slot, model] of [
      ["0000:01:00.0", "NVIDIA GeForce RTX 3090"],
      ["0000:02:00.0", "NVIDIA GeForce RTX 4090 Laptop GPU"],
    ] as const) {
      mkdirSync(join(folder, slot));
      writeFileSync(join(folder, slot, "information"), `Model: \t\t ${model}\nIRQ:   \t\t 99\n`);
    }
    expect(isHere(findDevice("rtx-3090"), folder)).toBe(true);
    expect(isHere(findDevice("rtx-4090"), folder)).toBe(false);
    expect(isHere(findDevice("rtx-3090"), join(folder, "none"))).toBe(false);
  });
});

describe("a limit on both pools together", () => {
  const planner = new Planner(
    { model: smallConfig({ layers: 4 }), dtype: "float32", target: "cpu", mapsWeights: false },
    speedOf(findDevice("a100-80gb")),
  );
  const workload: SizedWorkload = {
    ...{ rank: 8, dropout: 0, targets: "wqkv", batchSize: 1 },
    ...{ maxLength: 1200, pictureLimit: 1, imageShare: undefined },
  };
  const noLimits = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };
  const sum = ({ budgetedBytes, hostBytes }: { budgetedBytes: number; hostBytes: number }): number =>
    budgetedBytes + hostBytes;
  const rungs = planRungs(planner, workload, noLimits, {});
  const sums = rungs.map(({ run }) => sum(run)).sort((one, other) => one - other);

  it("refuses what fits each pool alone, and accepts the same one byte further", () => {
    const { run } = leastMemory(planner, workload, noLimits);
    expect(shortage(run, { ...noLimits, sumBytes: sum(run) })).toBeLessThanOrEqual(0);
    expect(shortage(run, { ...noLimits, sumBytes: sum(run) - 1 })).toBeGreaterThan(0);
  });

  it("holds for the fastest plan, the leanest, and the largest length that fits", () => {
    const sumBytes = sums[Math.floor(sums.length / 2)]!;
    const limits = { ...noLimits, sumBytes };
    for (const plan of [fastestPlan(planner, workload, limits), leastMemory(planner, workload, limits)]) {
      expect(plan.fits).toBe(true);
      expect(sum(plan.run)).toBeLessThanOrEqual(sumBytes);
    }
    const longest = solve(planner, "max-length", workload, limits)!;
    expect(longest.solved).toBeGreaterThanOrEqual(workload.maxLength);
    expect(sum(longest.plan.run)).toBeLessThanOrEqual(sumBytes);
  });

  it("names the smallest sum where nothing fits", () => {
    const { run, fits } = leastMemory(planner, workload, { ...noLimits, sumBytes: 1000 });
    expect(fits).toBe(false);
    expect(sum(run)).toBeLessThanOrEqual(sums[0]!);
  });
});
