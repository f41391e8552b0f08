import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { liveTensors } from "../../torch/device.ts";
import { busyBetween, pathOf } from "./busyMachine.ts";
import { keyOf, knownSpeed, lesserOf, measureCpu } from "./calibration.ts";
import { curveKey } from "./cpuSpeed.ts";

describe("a calibration", () => {
  it("measures every class, keeps no tensor, and of two keeps the less of each", () => {
    const before = liveTensors();
    const { wall, path } = measureCpu("float32", { budgetMs: 0, edges: [8, 32], elements: [64, 1024] });
    expect(liveTensors()).toBe(before);
    for (const speed of [wall, path]) {
      for (const { sizes, ms } of [...Object.values(speed.curves), speed.copies]) {
        expect(sizes).toEqual([...sizes].sort((one, other) => one - other));
        for (const value of ms) expect(Number.isFinite(value) && value >= 0).toBe(true);
      }
      for (const { edges, flopsPerSecond } of Object.values(speed.products))
        expect(flopsPerSecond).toHaveLength(edges.length ** 3);
    }
    const key = curveKey("add", "float32", false);
    const slower = structuredClone(wall);
    slower.curves[key]!.ms = wall.curves[key]!.ms.map((ms) => 2 * ms);
    slower.doubt = "others";
    slower.products["a b"].flopsPerSecond[0]! /= 2;
    expect(lesserOf(slower, wall)).toEqual(wall);
  });
});

describe("what was measured before", () => {
  const { wall: speed } = measureCpu("float32", { budgetMs: 0, edges: [8, 32], elements: [64, 1024] });
  const knownAfter = (measured: object): object | undefined => {
    const folder = mkdtempSync(join(tmpdir(), "calibration-"));
    try {
      writeFileSync(join(folder, "calibration.json"), JSON.stringify({ [keyOf("float32")]: measured }));
      return knownSpeed("float32", folder);
    } finally {
      rmSync(folder, { recursive: true });
    }
  };

  it("is used as it is", () => {
    expect(knownAfter({ speed, measuredAtMs: 0 })).toEqual(speed);
  });

  it("is not relied on where it was disturbed, or nobody has measured", () => {
    expect(knownAfter({ speed: { ...speed, doubt: "others" }, measuredAtMs: Date.now() })).toBeUndefined();
    expect(knownAfter({})).toBeUndefined();
    expect(knownSpeed("float32", join(tmpdir(), "no-such-folder"))).toBeUndefined();
  });
});

describe("a busy machine", () => {
  const idle = { usedMs: 0, stolenMs: 0, totalMs: 0, ownMs: 0 };

  it("is one where others take a tenth of the processor", () => {
    const alone = { usedMs: 8000, stolenMs: 0, totalMs: 10_000, ownMs: 7500 };
    expect(busyBetween(idle, alone)).toBeUndefined();
    expect(busyBetween(idle, { ...alone, ownMs: 3000 })?.reason).toContain("50 %");
  });

  it("is also one whose owner takes it away", () => {
    const times = { usedMs: 8000, stolenMs: 2000, totalMs: 10_000, ownMs: 8000 };
    expect(busyBetween(idle, times)?.reason).toContain("20 %");
  });
});

it("time of the processor is this thread's where it works alone, else an even share of all threads'", () => {
  expect(pathOf([4, 0])).toBe(4);
  expect(pathOf([4, 6])).toBe(5);
  expect(pathOf([6, 2])).toBe(6);
});

it.each([[[4, -1]], [[4, Number.NaN]], [[]]])("is no time where threads have changed: %j", (threadsMs) => {
  expect(pathOf(threadsMs)).toBeNaN();
});
