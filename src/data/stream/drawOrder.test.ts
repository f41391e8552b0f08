import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  fileOrder,
  officialOrder,
  type SampleGroup,
  type Sampler,
  sampleGroups,
  shuffledOrder,
} from "./drawOrder.ts";
import { permutation, randomAt } from "./random.ts";

function take(sampler: Sampler, count: number, from = 0): number[] {
  return Array.from({ length: count }, (_, index) => sampler.at(from + index).sample);
}

describe("random numbers by position", () => {
  it("are even over [0, 1) and differ by seed, stream and counter", () => {
    const numbers = Array.from({ length: 10_000 }, (_, index) => randomAt(7, 1, index));
    const counts = new Array(10).fill(0);
    for (const number of numbers) counts[Math.floor(number * 10)]++;
    for (const count of counts) expect(Math.abs(count - 1000)).toBeLessThan(150); // five standard deviations
    expect(new Set(numbers).size).toBe(10_000);
    expect(
      new Set([
        randomAt(7, 1, 0),
        randomAt(8, 1, 0),
        randomAt(7, 2, 0),
        randomAt(7, -1, 0),
        randomAt(7 + 2 ** 32, 1, 0),
      ]).size,
    ).toBe(5);
  });

  it("permute without loss", () => {
    const property = fc.property(
      fc.integer({ min: 0, max: 200 }),
      fc.integer(),
      fc.nat(),
      (length, seed, stream) => {
        const sorted = Array.from(permutation(length, seed, stream)).sort((a, b) => a - b);
        expect(sorted).toEqual(Array.from({ length }, (_, index) => index));
      },
    );
    fc.assert(property);
  });
});

it("every order of three is as likely as any other", () => {
  const counts = new Map<string, number>();
  for (let stream = 0; stream < 6000; stream++) {
    const order = permutation(3, 1, stream).join();
    counts.set(order, (counts.get(order) ?? 0) + 1);
  }
  expect(counts.size).toBe(6);
  for (const count of counts.values()) expect(Math.abs(count - 1000)).toBeLessThan(150); // five standard deviations
});

describe("the order of samples", () => {
  it("in file order runs over and over", () => {
    expect(take(fileOrder(3), 7)).toEqual([0, 1, 2, 0, 1, 2, 0]);
    expect(fileOrder(3).at(6).epoch).toBe(2);
  });

  it("shuffled has each sample once an epoch, in an order of its own", () => {
    const sampler = shuffledOrder(100, 5);
    const [first, second] = [take(sampler, 100), take(sampler, 100, 100)];
    expect(new Set(first).size).toBe(100);
    expect(new Set(second).size).toBe(100);
    expect(first).not.toEqual(second);
    expect(first).not.toEqual(take(shuffledOrder(100, 6), 100));
  });

  it("is the same wherever it is entered", () => {
    const groups = [group(20, 30, true), group(10, 5, false)];
    const samplers = { shuffled: () => shuffledOrder(30, 5), official: () => officialOrder(groups, 5) };
    for (const create of Object.values(samplers)) {
      const whole = take(create(), 200);
      for (const start of [0, 1, 29, 30, 31, 95, 199]) {
        expect(take(create(), 200 - start, start)).toEqual(whole.slice(start));
      }
    }
  });
});

describe("official sampling", () => {
  it("draws one sample with pictures, then two of text", () => {
    const sampler = officialOrder([group(10, 1000, true), group(10, 1000, false, 10)], 1);
    const kinds = take(sampler, 300).map((sample) => (sample < 10 ? "picture" : "text"));
    expect(kinds).toEqual(Array.from({ length: 300 }, (_, draw) => (draw % 3 === 0 ? "picture" : "text")));
    expect(sampler.epochDraws).toBe(2000);
    expect(sampler.at(2000).epoch).toBe(1);
  });

  it("draws with replacement, files in proportion to their counts", () => {
    const sampler = officialOrder([group(50, 3000, true), group(50, 1000, true, 50)], 1);
    const draws = take(sampler, 4000);
    expect(new Set(draws.slice(0, 50)).size).toBeLessThan(50);
    const share = draws.filter((sample) => sample < 50).length / draws.length;
    expect(Math.abs(share - 0.75)).toBeLessThan(0.035); // five standard deviations
    expect(new Set(draws).size).toBe(100);
  });

  it("takes a fixed part of a file with more samples than its count", () => {
    const sampler = officialOrder([group(100, 10, false)], 3);
    expect(new Set(take(sampler, 1000)).size).toBe(10);
  });

  it("reads counts as thousands, and without one counts the samples", () => {
    const samples = ["a", "b", "b"].map((file) => ({
      source: { file },
      images: file === "a" ? ["x.png"] : [],
    }));
    const groups = sampleGroups(
      [{ file: "a", thousands: 0.25 }, { file: "b" }, { file: "unused", thousands: 1 }],
      samples,
    );
    expect(groups).toEqual([
      { samples: [0], pictures: true, draws: 250 },
      { samples: [1, 2], pictures: false, draws: 2 },
    ]);
  });

  it("refuses counts that draw nothing", () => {
    expect(() => officialOrder([group(5, 0, true)], 1)).toThrow("Official sampling would draw nothing");
  });
});

function group(samples: number, draws: number, pictures: boolean, first = 0): SampleGroup {
  return { samples: Array.from({ length: samples }, (_, index) => first + index), draws, pictures };
}
