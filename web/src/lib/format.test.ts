import { describe, expect, it } from "vitest";
import {
  formatAge,
  formatBytes,
  formatCount,
  formatDuration,
  formatNumber,
  formatRatio,
  shortExponent,
} from "./format.ts";

describe("numbers as people read them", () => {
  it.each([
    [0, "0 B"],
    [17, "17 B"],
    [1024, "1.0 KiB"],
    [300 * 2 ** 20, "300 MiB"],
    [19.6 * 2 ** 30, "19.6 GiB"],
    [-(2 ** 30), "-1.0 GiB"],
    [undefined, "–"],
    [Number.NaN, "–"],
  ])("bytes %s are %s", (bytes, text) => expect(formatBytes(bytes)).toBe(text));

  it.each([
    [0, "0"],
    [0.41234, "0.4123"],
    [3.2149, "3.215"],
    [31.4159, "31.42"],
    [314.159, "314.2"],
    [1912.4, "1,912"],
    [3.1e-5, "3.1e-5"],
    [5e-5, "5e-5"],
    [-2, "-2.000"],
    [Number.POSITIVE_INFINITY, "∞"],
  ])("%s is %s", (value, text) => expect(formatNumber(value)).toBe(text));

  it.each([
    [412, "412 ms"],
    [8_600, "8.6 s"],
    [59_990, "1 min"],
    [318_000, "5 min 18 s"],
    [12_000_000, "3 h 20 min"],
    [187_200_000, "2 d 4 h"],
  ])("%s ms are %s", (ms, text) => expect(formatDuration(ms)).toBe(text));

  it("ages, shares, counts and exponents", () => {
    expect([500, 15_000, 240_000, 7_200_000, 260_000_000].map(formatAge)).toEqual([
      "now",
      "15 s ago",
      "4 min ago",
      "2 h ago",
      "3 d ago",
    ]);
    expect([0, 0.042, 0.5, 1].map(formatRatio)).toEqual(["0 %", "4.2 %", "50 %", "100 %"]);
    expect(formatCount(13345.4)).toBe("13,345");
    expect(shortExponent(1e10)).toBe("1e10");
  });
});
