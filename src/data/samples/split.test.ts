import fc from "fast-check";
import { expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import type { SampleSource } from "./sample.ts";
import { splitSamples } from "./split.ts";

interface One {
  source: SampleSource;
}

/** Samples of one file, with these ids. */
function samplesOf(ids: readonly (string | undefined)[]): One[] {
  return ids.map((id, index) => ({ source: { file: "a.json", index, ...(id !== undefined && { id }) } }));
}

const indexes = (part: readonly One[]) => part.map(({ source }) => source.index);

it("takes a number or a share of the samples aside, the same for the same seed, in file order", () => {
  const samples = samplesOf(Array(100).fill(undefined));
  const { train, validation } = splitSamples(samples, 7, 1);
  expect([train.length, validation.length]).toEqual([93, 7]);
  expect(splitSamples(samples, 0.07, 1)).toEqual({ train, validation });
  for (const part of [train, validation])
    expect(indexes(part)).toEqual(indexes(part).toSorted((a, b) => a - b));
  expect(splitSamples(samples, 7, 2).validation).not.toEqual(validation);
  expect(splitSamples(samples, 0.0001, 1).validation).toHaveLength(1);
});

it("every sample is on one side, no document on both, and no more than one document too many aside", () => {
  const ids = fc.array(fc.option(fc.constantFrom("a", "b", "c", "d", "e"), { nil: undefined }), {
    minLength: 1,
  });
  const property = fc.property(ids, fc.integer({ min: 1, max: 20 }), fc.nat(), (names, valSize, seed) => {
    const samples = samplesOf(names);
    const split = attempt(() => splitSamples(samples, valSize, seed));
    if (!split) return; // nothing would be left
    const { train, validation } = split;
    expect(indexes([...train, ...validation]).toSorted((a, b) => a - b)).toEqual(indexes(samples));
    expect(train.length).toBeGreaterThan(0);
    expect(validation.length).toBeGreaterThanOrEqual(valSize);
    const documents = (part: readonly One[]) => new Set(part.flatMap(({ source }) => source.id ?? []));
    for (const id of documents(validation)) expect(documents(train).has(id)).toBe(false);
    const largest = Math.max(...names.map((name) => (name ? names.filter((one) => one === name).length : 1)));
    expect(validation.length).toBeLessThan(valSize + largest);
  });
  fc.assert(property, { numRuns: 500 });
});

it("the same id in another file is another document", () => {
  const samples = ["a.json", "b.json"].map((file) => ({ source: { file, index: 0, id: "0" } }));
  expect(splitSamples(samples, 1, 0).train).toHaveLength(1);
});

it("what leaves nothing to train on is refused with the numbers", () => {
  expect(() => splitSamples(samplesOf([undefined, undefined]), 2, 0)).toThrow(
    "--val-size 2 leaves nothing to train on: the data has 2 samples.",
  );
  expect(() => splitSamples(samplesOf(["a", "a", "a"]), 1, 0)).toThrow(
    'the data has 3 samples of 1 document (by "id").',
  );
});

function attempt<T>(make: () => T): T | undefined {
  try {
    return make();
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}
