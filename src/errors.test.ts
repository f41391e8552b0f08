import fc from "fast-check";
import { expect, it } from "vitest";
import { formatBytes, formatCount, parseBytes, plural, UserError, writtenBytes } from "./errors.ts";

it.each<[string, number]>([
  ["32GiB", 32 * 2 ** 30],
  ["300 MiB", 300 * 2 ** 20],
  [" 1.5 g ", 1.5 * 2 ** 30],
  ["8GB", 8e9],
  ["64ki", 64 * 2 ** 10],
  ["1048576", 2 ** 20],
  ["12B", 12],
])("%s is an amount of memory", (text, bytes) => {
  expect(parseBytes(text)).toBe(bytes);
});

it.each(["", "GiB", "0", "-1GiB", "1 GiBs", "1e9", "1PB", "much"])("%j is none", (text) => {
  expect(() => parseBytes(text)).toThrow(UserError);
});

it("a written amount is read back to a twentieth of its unit", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 50 }), (bytes) => {
      expect(Math.abs(parseBytes(formatBytes(bytes)) / bytes - 1)).toBeLessThanOrEqual(0.051);
    }),
  );
});

it("counts have thousands apart, and nouns their number", () => {
  expect(formatCount(12544.4)).toBe("12,544");
  expect([plural(0, "sample"), plural(1, "sample"), plural(2000, "sample")]).toEqual([
    "0 samples",
    "1 sample",
    "2,000 samples",
  ]);
});

it("amounts are written to be read back to the byte, and briefly where they were given so", () => {
  for (const text of ["31.7GiB", "24GB", "300MiB", "0.5GiB", "8GiB"])
    expect(writtenBytes(parseBytes(text))).toBe(text);
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2 ** 45 }), (bytes) => {
      expect(parseBytes(writtenBytes(bytes))).toBe(bytes);
    }),
  );
});
