/**
 * Resizes 8-bit RGB exactly as Pillow and torch do. A filter is as wide as the scale, so shrinking is
 * antialiased. Each axis has a pass of its own with weights in fixed point, and values are rounded to 8 bits
 * in between. Sources: Pillow, src/libImaging/Resample.c; ATen/native/cpu/UpSampleKernel.cpp,
 * compute_index_ranges_int16_weights.
 */

/** RGB, 8 bits a channel. pixels: (height, width, 3) */
export interface Raster {
  width: number;
  height: number;
  pixels: Uint8Array;
}

export interface ResizeSize {
  width: number;
  height: number;
}

/** How a library resizes. */
interface Method {
  filter: Filter;
  /** Bits of the fraction of weights, by the largest weight. */
  weightBits(largest: number): number;
}

interface Filter {
  /** Distance from the centre, in pixels of the coarser picture, from which on weights are 0. */
  support: number;
  weight(distance: number): number;
}

/**
 * For each target position, its source range and the weights of that range, `tapsMax` apart, in units of
 * 2^-bits.
 */
interface Taps {
  firsts: Int32Array;
  counts: Int32Array;
  weights: Int32Array;
  tapsMax: number;
  bits: number;
}

const TRIANGLE: Filter = { support: 1, weight: (distance) => Math.max(0, 1 - Math.abs(distance)) };

/** Keys' cubic with a = -1/2, which both libraries use when shrinking is antialiased. */
const CUBIC: Filter = {
  support: 2,
  weight(distance) {
    const x = Math.abs(distance);
    if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
    return x < 2 ? (((x - 5) * x + 8) * x - 4) * -0.5 : 0;
  },
};

const pillowBits = (): number => 32 - 8 - 2;

/** Returns the bits with which the largest weight still fits 16 bits. */
function torchBits(largest: number): number {
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + largest * 2 ** (bits + 1)) < 2 ** 15) bits++;
  return bits;
}

const PILLOW_BILINEAR: Method = { filter: TRIANGLE, weightBits: pillowBits };
const PILLOW_BICUBIC: Method = { filter: CUBIC, weightBits: pillowBits };
const TORCH_BICUBIC: Method = { filter: CUBIC, weightBits: torchBits };

/**
 * Returns the picture in another size, as Pillow's BILINEAR does. The order of the two passes changes the
 * last bit. Pillow starts with the horizontal pass, except when the height shrinks over twice as much as the
 * width, which does not happen here. The official code transposes a portrait before and after; swapping the
 * passes gives the same result.
 */
export function resizeBilinear(
  source: Raster,
  { width, height }: ResizeSize,
  order: "horizontal first" | "vertical first",
): Raster {
  return order === "horizontal first"
    ? resizeHeight(resizeWidth(source, width, PILLOW_BILINEAR), height, PILLOW_BILINEAR)
    : resizeWidth(resizeHeight(source, height, PILLOW_BILINEAR), width, PILLOW_BILINEAR);
}

/** Returns the picture in another size, as torchvision's bicubic with antialias does with 8-bit tensors. */
export function resizeBicubicTorch(source: Raster, { width, height }: ResizeSize): Raster {
  return resizeHeight(resizeWidth(source, width, TORCH_BICUBIC), height, TORCH_BICUBIC);
}

/** Returns the picture in another size, as the BICUBIC of Pillow up to 12.0 does. */
export function resizeBicubicPillow(source: Raster, { width, height }: ResizeSize): Raster {
  return resizeHeight(resizeWidth(source, width, PILLOW_BICUBIC), height, PILLOW_BICUBIC);
}

function resizeWidth(source: Raster, width: number, method: Method): Raster {
  if (width === source.width) return source;
  const { height, pixels } = source;
  const { firsts, counts, weights, tapsMax, bits } = tapsOf(source.width, width, method);
  const half = 1 << (bits - 1);
  const resized = new Uint8ClampedArray(height * width * 3);
  let target = 0;
  for (let y = 0; y < height; y++) {
    const row = y * source.width * 3;
    for (let x = 0; x < width; x++) {
      let from = row + (firsts[x] as number) * 3;
      let tap = x * tapsMax;
      let [red, green, blue] = [half, half, half];
      for (const end = tap + (counts[x] as number); tap < end; tap++, from += 3) {
        const weight = weights[tap] as number;
        red += Math.imul(pixels[from] as number, weight);
        green += Math.imul(pixels[from + 1] as number, weight);
        blue += Math.imul(pixels[from + 2] as number, weight);
      }
      resized[target++] = red >> bits;
      resized[target++] = green >> bits;
      resized[target++] = blue >> bits;
    }
  }
  return { width, height, pixels: new Uint8Array(resized.buffer) };
}

function resizeHeight(source: Raster, height: number, method: Method): Raster {
  if (height === source.height) return source;
  const { width, pixels } = source;
  const { firsts, counts, weights, tapsMax, bits } = tapsOf(source.height, height, method);
  const rowBytes = width * 3;
  const resized = new Uint8ClampedArray(height * rowBytes);
  const sums = new Int32Array(rowBytes);
  for (let y = 0; y < height; y++) {
    sums.fill(1 << (bits - 1));
    for (let tap = 0; tap < (counts[y] as number); tap++) {
      const weight = weights[y * tapsMax + tap] as number;
      const from = ((firsts[y] as number) + tap) * rowBytes;
      for (let i = 0; i < rowBytes; i++)
        sums[i] = (sums[i] as number) + Math.imul(pixels[from + i] as number, weight);
    }
    const target = y * rowBytes;
    for (let i = 0; i < rowBytes; i++) resized[target + i] = (sums[i] as number) >> bits;
  }
  return { width, height, pixels: new Uint8Array(resized.buffer) };
}

/**
 * Weights add up to one, except for rounding, and those below zero to more than -1/4. So sums stay within 32
 * bits.
 */
function tapsOf(sourceLength: number, targetLength: number, { filter, weightBits }: Method): Taps {
  const scale = sourceLength / targetLength;
  const inverse = scale >= 1 ? 1 / scale : 1;
  const support = filter.support * Math.max(scale, 1);
  const tapsMax = Math.ceil(support) * 2 + 1;
  const firsts = new Int32Array(targetLength);
  const counts = new Int32Array(targetLength);
  const shares = new Float64Array(targetLength * tapsMax);
  let largest = 0;
  for (let target = 0; target < targetLength; target++) {
    const center = (target + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(sourceLength, Math.trunc(center + support + 0.5)) - first;
    const own = shares.subarray(target * tapsMax, target * tapsMax + count);
    for (let tap = 0; tap < count; tap++) own[tap] = filter.weight((tap + first - center + 0.5) * inverse);
    const sum = own.reduce((total, weight) => total + weight, 0);
    for (let tap = 0; tap < count; tap++) own[tap] = (own[tap] as number) / sum;
    largest = own.reduce((most, share) => Math.max(most, share), largest);
    firsts[target] = first;
    counts[target] = count;
  }
  const bits = weightBits(largest);
  const weights = Int32Array.from(shares, (share) => Math.trunc(share * 2 ** bits + 0.5 * Math.sign(share)));
  return { firsts, counts, weights, tapsMax, bits };
}
