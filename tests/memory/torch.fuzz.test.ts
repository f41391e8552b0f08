/**
 * Whatever arguments an operator gets, it answers or throws. It never crashes, and never leaves a tensor
 * behind.
 */
import fc from "fast-check";
import { afterAll, expect, test } from "vitest";
import { arange, empty, ones, zeros } from "../../src/torch/create.ts";
import { liveTensors, memoryStats, setCap } from "../../src/torch/device.ts";
import * as ops from "../../src/torch/ops.gen.ts";
import { FUNCTIONS, METHODS } from "../../src/torch/ops.ts";
import { createGenerator } from "../../src/torch/random.ts";
import { scope, Tensor } from "../../src/torch/tensor.ts";

setCap("cpu", 2 ** 30); // sizes are random too: no tensor may use up the machine's memory
afterAll(() => setCap("cpu", undefined));

/** Any value, created when it is used. Most values are wrong for their parameter. */
const anything: fc.Arbitrary<() => unknown> = fc.oneof(
  fc.constantFrom<() => unknown>(
    () => undefined,
    () => null,
    () => ones([2, 3]),
    () => zeros([3]),
    () => arange(3),
    () => zeros([2, 3], { dtype: "bool" }),
    () => empty([0]),
    () => ones([1, 2, 4, 8]),
    () => ones([2, 3], { device: "meta" }),
    () => ones([3, 2], { dtype: "bfloat16" }),
    () => {
      const gone = ones([2]);
      gone.dispose();
      return gone;
    },
    () => [ones([2, 3]), zeros([2, 3])],
    () => [ones([2]), null, "x"],
    () => createGenerator(1),
    () => Symbol("symbol"),
    () => () => 1,
    () => new Float32Array(3),
    () => ({ handle: 4194304 }),
    () => 4194304,
  ),
  fc
    .oneof(fc.integer({ min: -4, max: 9 }), fc.double(), fc.maxSafeInteger(), fc.bigInt(), fc.boolean())
    .map((value) => () => value),
  fc.constantFrom("float32", "cpu", "cuda:0", "mean", "", "contiguous").map((value) => () => value),
  fc.array(fc.integer({ min: -2, max: 9 }), { maxLength: 4 }).map((value) => () => value),
);

const arguments_ = fc.array(anything, { maxLength: 7 });
const options = fc.dictionary(
  fc.constantFrom(
    "dim",
    "dtype",
    "device",
    "alpha",
    "keepdim",
    "generator",
    "scale",
    "bias",
    "weight",
    "eps",
    "min",
    "max",
    "p",
  ),
  anything,
  { maxKeys: 3 },
);

/** Calls a method or function with the values that the makers create. */
function callAny(
  name: string,
  self: () => unknown,
  makers: (() => unknown)[],
  extra: Record<string, () => unknown>,
): void {
  scope(() => {
    const values = makers.map((make) => make());
    const last = Object.fromEntries(Object.entries(extra).map(([key, make]) => [key, make()]));
    try {
      if (name in FUNCTIONS)
        (ops as unknown as Record<string, (...all: unknown[]) => unknown>)[name]?.(...values, last);
      else
        (Tensor.prototype as unknown as Record<string, (...all: unknown[]) => unknown>)[name]?.call(
          self(),
          ...values,
          last,
        );
    } catch (error) {
      expect(error).toBeInstanceOf(Error);
      expect((error as Error).message).not.toContain("\n");
    }
  });
}

test.each([...Object.keys(METHODS), ...Object.keys(FUNCTIONS)])("%s survives any arguments", (name) => {
  const before = { tensors: liveTensors(), bytes: memoryStats("cpu").liveBytes };
  fc.assert(
    fc.property(anything, arguments_, options, (self, makers, extra) => {
      // A method is called on a tensor. Other values are tried as arguments.
      callAny(name, () => [self()].find((value) => value instanceof Tensor) ?? ones([2, 3]), makers, extra);
    }),
    { numRuns: 100 },
  );
  expect({ tensors: liveTensors(), bytes: memoryStats("cpu").liveBytes }).toEqual(before);
});
