import { expect, test } from "vitest";
import { empty, rand, randint, randn, randperm } from "./create.ts";
import { createGenerator, type Generator, manualSeed } from "./random.ts";
import { scope } from "./tensor.ts";

const draw = (generator: Generator): number[] =>
  scope(() => [...empty([5]).normal_({ generator }).toFloat32Array()]);

test("a seed gives the same numbers again, another seed others", () => {
  using first = createGenerator(7n);
  using again = createGenerator(7);
  using other = createGenerator(8);
  const numbers = draw(first);
  expect(draw(again)).toEqual(numbers);
  expect(draw(other)).not.toEqual(numbers);
});

test("seeds of 64 bits all count", () => {
  using low = createGenerator(5n);
  using high = createGenerator(5n + (1n << 40n));
  expect(draw(low)).not.toEqual(draw(high));
  expect(() => createGenerator(0.5)).toThrow("must be a whole number");
});

test("a saved state goes on where it was, in another generator too", () => {
  using generator = createGenerator(3);
  draw(generator);
  const state = generator.state();
  const next = draw(generator);
  using other = createGenerator(99);
  other.setState(state);
  expect(draw(other)).toEqual(next);
  generator.setState(state);
  expect(draw(generator)).toEqual(next);
});

test("bytes that are no state are refused, and the generator goes on", () => {
  using generator = createGenerator(3);
  expect(() => generator.setState(new Uint8Array(3))).toThrow();
  expect(draw(generator)).toHaveLength(5);
});

test("a disposed generator is named by the op's error", () => {
  const generator = createGenerator(3);
  generator.dispose();
  generator.dispose();
  expect(() => draw(generator)).toThrow('aten::normal_: argument "generator" is a disposed generator');
});

test("every op that draws takes a generator", () => {
  const all = () => {
    using generator = createGenerator(11);
    return scope(() =>
      [
        rand([3], { generator }),
        randn([3], { generator }),
        randint(0, 9, [3], { generator }),
        randperm(6, { generator }),
        empty([4]).uniform_({ generator }),
        empty([4]).bernoulli_({ p: 0.5, generator }),
        rand([4], { generator }).multinomial(2, { generator }),
      ].map((x) => [...x.toFloat32Array()]),
    );
  };
  expect(all()).toEqual(all());
});

test("the default generators are seeded at once", () => {
  const numbers = () => scope(() => [...randn([4]).toFloat32Array()]);
  manualSeed(5);
  const first = numbers();
  manualSeed(5n);
  expect(numbers()).toEqual(first);
});

test("on meta nothing is drawn, and the call is the same", () => {
  using generator = createGenerator(1, "meta");
  scope(() => expect(empty([5], { device: "meta" }).bernoulli_({ p: 0.1, generator }).shape).toEqual([5]));
});
