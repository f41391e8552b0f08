import { expect, it } from "vitest";
import { type BadSample, badSamplesError } from "./badSamples.ts";

it("says what would fit all samples that are too long, however many they are", () => {
  const bad = Array.from({ length: 300_000 }, (_, index): BadSample => {
    const needs = { maxLength: 5000 + index, limit: { flag: "hd-num", value: 16 - (index % 8) } };
    return { source: { file: "a.json", index }, message: "too long", fix: "", needs };
  });
  const { message, fix } = badSamplesError(bad, 400_000);
  expect(message).toContain("300,000 of 400,000 samples can't be used");
  expect(message).toContain("and 299,990 more");
  expect(fix).toContain("--max-length 304999  (fits the 300,000 that are too long)");
  expect(fix).toContain("--hd-num 9  (fits");
});
