/**
 * Draws random numbers by position instead of from a running state. The same (seed, stream, counter) always
 * gives the same number, so a run that continues needs no saved state of a generator.
 */

/** Returns a number in [0, 1) with 53 random bits, for a whole-number seed, stream and counter. */
export function randomAt(seed: number, stream: number, counter: number): number {
  const high = hash(seed, stream, counter, 0) >>> 5; // 27 bits
  const low = hash(seed, stream, counter, 1) >>> 6; // 26 bits
  return (high * 2 ** 26 + low) / 2 ** 53;
}

/** Returns the numbers 0 to length - 1 in an order that depends on seed and stream alone. */
export function permutation(length: number, seed: number, stream: number): Uint32Array {
  const order = Uint32Array.from({ length }, (_, index) => index);
  for (let last = length - 1; last > 0; last--) {
    const other = Math.floor(randomAt(seed, stream, last) * (last + 1));
    const kept = order[last] as number;
    order[last] = order[other] as number;
    order[other] = kept;
  }
  return order;
}

/** Returns 32 mixed bits of whole numbers below 2^53. */
function hash(...values: number[]): number {
  let bits = 0;
  for (const value of values) {
    bits = mix(bits ^ (value >>> 0));
    bits = mix(bits ^ (Math.floor(value / 2 ** 32) >>> 0));
  }
  return bits >>> 0;
}

/** Mixes bits: MurmurHash3's finaliser over a Weyl step, so that zero does not stay zero. */
function mix(value: number): number {
  let bits = (value + 0x9e3779b9) | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return bits ^ (bits >>> 16);
}
