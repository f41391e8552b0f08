/**
 * Makes the global view: the whole padded picture at the size of one tile. It equals torch's bicubic
 * interpolation of the normalised picture (align_corners False, no antialias, a = -0.75). The picture is a
 * whole number n of tiles wide and high. So the source position of target t, n (t + 1/2) - 1/2, is a pixel if
 * n is odd, and midway between two pixels if n is even. Along each axis the filter is therefore one pixel, or
 * the same four weights everywhere; most pixels are never read. Source: ATen/native/UpSample.h
 * (area_pixel_compute_source_index, get_cubic_upsample_coefficients).
 */

/** Mean and standard deviation of each channel (RGB), in 0..1, that normalise CLIP's pixels. */
export const PIXEL_MEAN = [0.48145466, 0.4578275, 0.40821073] as const;
export const PIXEL_STD = [0.26862954, 0.26130258, 0.27577711] as const;

const PICK = [1];
/** The cubic kernel half-way between two pixels, at distances 3/2, 1/2, 1/2, 3/2. */
const MIDWAY = [-0.09375, 0.59375, 0.59375, -0.09375];

/**
 * Returns the normalised global view. pixels: (rows * tilePixels, cols * tilePixels, 3) -> (3, tilePixels,
 * tilePixels).
 */
export function globalView(pixels: Uint8Array, rows: number, cols: number, tilePixels: number): Float32Array {
  const view = new Float32Array(3 * tilePixels * tilePixels);
  const down = axisTaps(rows, tilePixels, cols * tilePixels * 3);
  const across = axisTaps(cols, tilePixels, 3);
  let target = 0;
  for (let channel = 0; channel < 3; channel++) {
    const values = normalisedValues(channel);
    for (let y = 0; y < tilePixels; y++) {
      for (let x = 0; x < tilePixels; x++) {
        let sum = 0;
        for (let i = 0; i < down.weights.length; i++) {
          const row = (down.offsets[y * down.weights.length + i] as number) + channel;
          let rowSum = 0;
          for (let j = 0; j < across.weights.length; j++) {
            const pixel = pixels[row + (across.offsets[x * across.weights.length + j] as number)] as number;
            rowSum += (values[pixel] as number) * (across.weights[j] as number);
          }
          sum += rowSum * (down.weights[i] as number);
        }
        view[target++] = sum;
      }
    }
  }
  return view;
}

/**
 * Returns the taps of an axis that shrinks `factor` times: weights that are the same everywhere, and the
 * offsets at which they apply, with `stride` bytes a position.
 */
function axisTaps(factor: number, targets: number, stride: number) {
  const weights = factor % 2 === 1 ? PICK : MIDWAY;
  const offsets = new Int32Array(targets * weights.length);
  for (let target = 0; target < targets; target++) {
    const first = Math.floor(factor * (target + 0.5) - 0.5) - (weights.length === 1 ? 0 : 1);
    for (let tap = 0; tap < weights.length; tap++) {
      const position = Math.min(Math.max(first + tap, 0), factor * targets - 1); // the border repeats
      offsets[target * weights.length + tap] = position * stride;
    }
  }
  return { weights, offsets };
}

/**
 * Returns (value / 255 - mean) / std for the 256 values of a channel, rounded to float32 after each
 * operation, as torchvision does.
 */
function normalisedValues(channel: number): Float32Array {
  const mean = Math.fround(PIXEL_MEAN[channel] ?? 0);
  const std = Math.fround(PIXEL_STD[channel] ?? 1);
  return Float32Array.from({ length: 256 }, (_, value) => Math.fround(Math.fround(value / 255) - mean) / std);
}
