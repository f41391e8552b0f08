/**
 * Resizes 8-bit RGB exactly as Pillow's BILINEAR does. The filter is a triangle as wide as the scale, so
 * shrinking is antialiased. Each axis has a pass of its own with weights in fixed point, and values are
 * rounded to 8 bits in between. Source: Pillow, src/libImaging/Resample.c.
 */

/** RGB, 8 bits a channel. pixels: (height, width, 3) */
export interface Raster {
  width: number;
  height: number;
  pixels: Uint8Array;
}

/**
 * For each target position, its source range and the weights of that range, `tapsMax` apart, in units of
 * 2^-22.
 */
interface Taps {
  firsts: Int32Array;
  counts: Int32Array;
  weights: Int32Array;
  tapsMax: number;
}

const WEIGHT_BITS = 32 - 8 - 2;
const ONE = 1 << WEIGHT_BITS;
const HALF = ONE >> 1;

/**
 * Returns the picture in another size. The order of the two passes changes the last bit. Pillow starts with
 * the horizontal pass, except when the height shrinks over twice as much as the width, which does not happen
 * here. The official code transposes a portrait before and after; swapping the passes gives the same result.
 */
export function resizeBilinear(
  source: Raster,
  { width, height }: { width: number; height: number },
  order: "horizontal first" | "vertical first",
): Raster {
  return order === "horizontal first"
    ? resizeHeight(resizeWidth(source, width), height)
    : resizeWidth(resizeHeight(source, height), width);
}

function resizeWidth(source: Raster, width: number): Raster {
  if (width === source.width) return source;
  const { height, pixels } = source;
  const { firsts, counts, weights, tapsMax } = triangleTaps(source.width, width);
  const resized = new Uint8Array(height * width * 3);
  let target = 0;
  for (let y = 0; y < height; y++) {
    const row = y * source.width * 3;
    for (let x = 0; x < width; x++) {
      let from = row + (firsts[x] as number) * 3;
      let tap = x * tapsMax;
      let [red, green, blue] = [HALF, HALF, HALF];
      for (const end = tap + (counts[x] as number); tap < end; tap++, from += 3) {
        const weight = weights[tap] as number;
        red += Math.imul(pixels[from] as number, weight);
        green += Math.imul(pixels[from + 1] as number, weight);
        blue += Math.imul(pixels[from + 2] as number, weight);
      }
      resized[target++] = red >> WEIGHT_BITS;
      resized[target++] = green >> WEIGHT_BITS;
      resized[target++] = blue >> WEIGHT_BITS;
    }
  }
  return { width, height, pixels: resized };
}

function resizeHeight(source: Raster, height: number): Raster {
  if (height === source.height) return source;
  const { width, pixels } = source;
  const { firsts, counts, weights, tapsMax } = triangleTaps(source.height, height);
  const rowBytes = width * 3;
  const resized = new Uint8Array(height * rowBytes);
  const sums = new Int32Array(rowBytes);
  for (let y = 0; y < height; y++) {
    sums.fill(HALF);
    for (let tap = 0; tap < (counts[y] as number); tap++) {
      const weight = weights[y * tapsMax + tap] as number;
      const from = ((firsts[y] as number) + tap) * rowBytes;
      for (let i = 0; i < rowBytes; i++)
        sums[i] = (sums[i] as number) + Math.imul(pixels[from + i] as number, weight);
    }
    const target = y * rowBytes;
    for (let i = 0; i < rowBytes; i++) resized[target + i] = (sums[i] as number) >> WEIGHT_BITS;
  }
  return { width, height, pixels: resized };
}

/**
 * Weights are not negative and add up to one, except for rounding. So sums stay below 256 * ONE, without
 * clipping or overflow.
 */
function triangleTaps(sourceLength: number, targetLength: number): Taps {
  const scale = sourceLength / targetLength;
  const support = Math.max(scale, 1);
  const tapsMax = Math.ceil(support) * 2 + 1;
  const firsts = new Int32Array(targetLength);
  const counts = new Int32Array(targetLength);
  const weights = new Int32Array(targetLength * tapsMax);
  for (let target = 0; target < targetLength; target++) {
    const center = (target + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const count = Math.min(sourceLength, Math.trunc(center + support + 0.5)) - first;
    const triangle = Array.from({ length: count }, (_, tap) =>
      Math.max(0, 1 - Math.abs((tap + first - center + 0.5) * (1 / support))),
    );
    const sum = triangle.reduce((total, weight) => total + weight, 0);
    triangle.forEach((weight, tap) => {
      weights[target * tapsMax + tap] = Math.trunc(0.5 + (weight / sum) * ONE);
    });
    firsts[target] = first;
    counts[target] = count;
  }
  return { firsts, counts, weights, tapsMax };
}
