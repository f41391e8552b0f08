/** Vitest matchers for arrays of numbers. */
import { expect } from "vitest";

interface Tolerance {
  atol?: number;
  rtol?: number;
}

expect.extend({
  /**
   * Checks |actual - expected| <= atol + rtol * |expected| for every element; the message names the worst
   * element.
   */
  toMatchArray(
    actual: ArrayLike<number>,
    expected: ArrayLike<number>,
    { atol = 0, rtol = 0 }: Tolerance = {},
  ) {
    if (actual.length !== expected.length) {
      return { pass: false, message: () => `${actual.length} elements instead of ${expected.length}` };
    }
    let worstIndex = -1;
    let worstExcess = Number.NEGATIVE_INFINITY;
    for (let index = 0; index < actual.length; index++) {
      const want = Number(expected[index]);
      const excess = Math.abs(Number(actual[index]) - want) - atol - rtol * Math.abs(want);
      if (excess > worstExcess || Number.isNaN(excess)) {
        worstExcess = Number.isNaN(excess) ? Number.POSITIVE_INFINITY : excess;
        worstIndex = index;
      }
    }
    return {
      pass: actual.length === 0 || worstExcess <= 0,
      message: () =>
        `worst element ${worstIndex}: ${actual[worstIndex]} instead of ${expected[worstIndex]} (atol ${atol}, rtol ${rtol})`,
    };
  },
});

declare module "vitest" {
  // biome-ignore lint/suspicious/noExplicitAny: the type parameter must be declared as Vitest declares it
  interface Matchers<T = any> {
    toMatchArray(expected: ArrayLike<number>, tolerance?: Tolerance): T;
  }
}
