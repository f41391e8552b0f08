/**
 * Numbers drawn by position instead of from a running state: the same (seed, stream, counter) gives the same number
 * for ever, so a stopped run goes on by counting and has no generator state to save.
 */

/** A number in [0, 1) with 53 random bits for a whole-number seed, stream and counter. */
export function randomAt(seed: number, stream: number, counter: number): number {
  const high = hash(seed, stream, counter, 0) >>> 5; // 27 bits
  const low = hash(seed, stream, counter, 1) >>> 6; // 26 bits
  return (high * 2 ** 26 + low) / 2 ** 53;
}

/** The numbers 0 to length - 1 in an order that depends on seed and stream alone. */
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

/** 32 mixed bits of whole numbers below 2^53. */
function hash(...values: number[]): number {
  let bits = 0;
  for (const value of values) {
    bits = mix(bits ^ (value >>> 0));
    bits = mix(bits ^ (Math.floor(value / 2 ** 32) >>> 0));
  }
  return bits >>> 0;
}

/** MurmurHash3's finaliser over a Weyl step, so that zero doesn't stay zero. */
function mix(value: number): number {
  let bits = (value + 0x9e3779b9) | 0;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85ebca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35);
  return bits ^ (bits >>> 16);
}
