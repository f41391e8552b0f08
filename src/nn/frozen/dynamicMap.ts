/**
 * The numbers that 8-bit codes stand for, dense near zero (dynamic exponent: arXiv:2110.02861). They equal
 * bitsandbytes' numbers bit by bit.
 */
import { linspace } from "../../torch/ops.gen.ts";
import { scope } from "../../torch/tensor.ts";

export type Sign = "signed" | "unsigned";

/** Number of powers of ten that the map spans. */
const EXPONENTS = 7;

/**
 * Returns 256 ascending numbers in [-1, 1] or [0, 1]: seven powers of ten, each with twice as many fractions
 * as the one below.
 */
export function dynamicMap(sign: Sign): Float32Array {
  const map = known.get(sign) ?? scope(() => makeMap(sign));
  known.set(sign, map);
  return map;
}

const known = new Map<Sign, Float32Array>();

function makeMap(sign: Sign): Float32Array {
  const positive = Array.from({ length: EXPONENTS }, (_, exponent) => {
    const steps = 2 ** (sign === "signed" ? exponent : exponent + 1);
    const edges = linspace(0.1, 1, steps + 1); // float32, to round as bitsandbytes does
    const middles = edges
      .narrow(0, 0, steps)
      .add(edges.narrow(0, 1, steps))
      .div_(2);
    return [...middles.mul(10 ** (exponent + 1 - EXPONENTS)).toFloat32Array()];
  }).flat();
  const negative = sign === "signed" ? positive.map((number) => -number) : [];
  return Float32Array.from([...negative, 0, ...positive, 1]).sort();
}
