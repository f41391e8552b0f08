import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { lcg } from "../../../tests/helpers/randomModel.ts";
import { dynamicMap } from "../../nn/frozen/dynamicMap.ts";
import { empty, fromArray } from "../../torch/create.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { BLOCK_ELEMENTS, codeTable, dequantized, quantized, zeroCodes } from "./eightBit.ts";

/** Numbers that create_dynamic_map of bitsandbytes 0.50.2 gives, by place in ascending order. */
const KNOWN = {
  signed: [
    ...[0, -0.992968738, 1, -0.978906274, 63, -0.107031256, 100, -0.00746874977, 126, -5.50000038e-7, 127, 0],
    ...[128, 5.50000038e-7, 129, 3.25000019e-6, 140, 0.00071875006, 200, 0.233593747, 254, 0.992968738],
    ...[255, 1],
  ],
  unsigned: [
    ...[0, 0, 1, 3.2500003e-7, 63, 0.010703126, 100, 0.0627343804, 126, 0.0992968753, 127, 0.103515625],
    ...[140, 0.194921881, 200, 0.616796851, 254, 0.996484399, 255, 1],
  ],
};
const SIGNS = ["signed", "unsigned"] as const;

describe.each(SIGNS)("%s codes", (sign) => {
  it("stand for bitsandbytes' numbers", () => {
    const map = dynamicMap(sign);
    expect(map).toHaveLength(256);
    for (let at = 0; at < KNOWN[sign].length; at += 2) {
      const [code, value] = [KNOWN[sign][at]!, KNOWN[sign][at + 1]!];
      expect(Math.abs(map[code]! - value), `code ${code}`).toBeLessThanOrEqual(3e-7 * Math.abs(value));
    }
  });

  it("give each element the nearest number times its block's magnitude; only a square is never rounded to zero", () => {
    const map = dynamicMap(sign);
    const blocks = fc.record({
      seed: fc.integer(),
      blocks: fc.integer({ min: 1, max: 5 }),
      decades: fc.integer({ min: 0, max: 9 }),
    });
    fc.assert(
      fc.property(blocks, ({ seed, blocks, decades }) => {
        const random = lcg(seed);
        const numbers = Float32Array.from({ length: blocks * BLOCK_ELEMENTS }, () => {
          const magnitude = random() * 10 ** (-decades * random());
          return sign === "signed" && random() < 0.5 ? -magnitude : magnitude;
        });
        const again = roundTrip(numbers, sign);
        numbers.forEach((number, index) => {
          const start = index - (index % BLOCK_ELEMENTS);
          const block = numbers.subarray(start, start + BLOCK_ELEMENTS);
          const absmax = block.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
          const allowed = sign === "unsigned" && number > 0 ? map.subarray(1) : map;
          const least = allowed.reduce(
            (error, x) => Math.min(error, Math.abs(x * absmax - number)),
            Infinity,
          );
          expect(Math.abs(again[index]! - number)).toBeLessThanOrEqual(least + 1e-6 * absmax);
          if (sign === "unsigned") expect(again[index] === 0).toBe(number === 0);
        });
      }),
      { numRuns: 20 },
    );
  });

  it("keep zeros, also in a block of nothing else", () => {
    const numbers = new Float32Array(2 * BLOCK_ELEMENTS);
    numbers[3] = 5;
    expect(roundTrip(numbers, sign)).toEqual(numbers);
    const state = scope(() => {
      const table = codeTable(sign, "cpu");
      return dequantized(zeroCodes(300, table, newTensor), table).toFloat32Array();
    });
    expect(state).toEqual(new Float32Array(2 * BLOCK_ELEMENTS));
  });
});

function roundTrip(numbers: Float32Array, sign: (typeof SIGNS)[number]): Float32Array {
  return scope(() => {
    const table = codeTable(sign, "cpu");
    const blocks = fromArray(numbers, [numbers.length / BLOCK_ELEMENTS, BLOCK_ELEMENTS]);
    return dequantized(quantized(blocks, table), table).toFloat32Array();
  });
}

function newTensor(shape: number[], dtype: Tensor["dtype"]): Tensor {
  return empty(shape, { dtype });
}
