import { describe, expect, it } from "vitest";
import { interval, intervalMs, withSteps } from "./interval.ts";

describe("an interval", () => {
  it.each([
    ["90s", 90_000],
    ["1.5 min", 90_000],
    ["10min", 600_000],
    ["10m", 600_000],
    ["1h", 3_600_000],
    ["0.5h", 1_800_000],
    ["2d", 172_800_000],
    ["100", undefined],
    [100, undefined],
  ])("%o lasts %o ms", (given, ms) => {
    expect(intervalMs(interval.parse(given))).toBe(ms);
  });

  it("of steps is a number, as a flag or not", () => {
    expect([withSteps("100"), withSteps(100), withSteps("10min")]).toEqual([100, 100, "10min"]);
  });

  it.each([0, -1, 1.5, "0", "0s", "0.0h", "10 minutes", "min", "1h30min", "", "-5min"])(
    "is not %o",
    (given) => {
      expect(interval.safeParse(given).success).toBe(false);
    },
  );
});
