/** The histogram of sample lengths. */

/** Pairs of a length in tokens and the number of samples that have it, the shortest first. */
export type Lengths = readonly (readonly [tokens: number, samples: number])[];

export interface Bin {
  /** Lengths from `from` to below `to`. */
  from: number;
  to: number;
  samples: number;
}

const MOST_BINS = 48;

/** Returns the samples with more than so many tokens. */
export function tooLong(lengths: Lengths, maxLength: number): number {
  return lengths.reduce((sum, [tokens, samples]) => sum + (tokens > maxLength ? samples : 0), 0);
}

/** Returns equal bins of a round width from 0 to at least `most` tokens. */
export function binsOf(lengths: Lengths, most: number): Bin[] {
  const width = roundUp(Math.max(1, most) / MOST_BINS);
  const bins = Array.from({ length: Math.ceil((most + 1) / width) }, (_, place) => ({
    from: place * width,
    to: (place + 1) * width,
    samples: 0,
  }));
  for (const [tokens, samples] of lengths) {
    const bin = bins[Math.floor(tokens / width)];
    if (bin) bin.samples += samples;
  }
  return bins;
}

/** Returns the length that so large a share of the samples does not pass. */
export function quantile(lengths: Lengths, share: number): number | undefined {
  const total = lengths.reduce((sum, [, samples]) => sum + samples, 0);
  let seen = 0;
  for (const [tokens, samples] of lengths) {
    seen += samples;
    if (seen >= share * total) return tokens;
  }
  return undefined;
}

/** Returns 1, 2 or 5 times a power of ten, at least `value`. */
function roundUp(value: number): number {
  const power = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 2, 5, 10].find((step) => step * power >= value) ?? 10;
  return Math.max(1, Math.round(factor * power));
}
