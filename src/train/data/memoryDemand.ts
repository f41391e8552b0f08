/**
 * The memory that the data needs: its longest micro-batch, and for each length a micro-batch that needs as
 * much as any.
 */

import { layoutOf } from "../../data/pictures/form.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { type Packing, WINDOW_DRAWS } from "../../data/stream/packing.ts";
import type { ExactShape } from "../../plan/dryRun/batchShapes.ts";
import { mostOfBatches, type RowCounts, rowCountsOf, shapeOfMost } from "./rowCounts.ts";

export interface Demand {
  /** The sample with the most tokens. */
  longest: PreparedSample;
  /** Tokens of the largest micro-batch. */
  mostTokens: number;
  /** A few micro-batches as the data makes them, from short to long; pictures come first in each sample. */
  typical: readonly ExactShape[];
  /**
   * Returns a micro-batch of so many tokens that needs as much memory as any of the data's up to that length.
   */
  shapeOf(tokens: number): ExactShape;
}

/** Returns what the samples, at least one, need once they are packed. */
export function demandOf(samples: readonly PreparedSample[], packing: Packing): Demand {
  const byTokens = [...samples].sort((one, other) => one.tokens - other.tokens);
  const counts = byTokens.map(rowCountsOf);
  const known = new Map<number, ExactShape>();
  return {
    longest: byTokens.at(-1)!,
    mostTokens: mostTokensOf(byTokens, packing),
    typical: typicalShapes(byTokens, counts, packing),
    shapeOf(tokens) {
      const shape = known.get(tokens) ?? shapeOfMost(mostOfBatches(counts, packing, tokens), tokens);
      known.set(tokens, shape);
      return shape;
    },
  };
}

/** Micro-batches that stand for all. */
const TYPICAL = 3;

/**
 * Returns single samples from each part of the data; if a micro-batch holds several, one micro-batch of
 * samples from all parts.
 */
function typicalShapes(
  byTokens: readonly PreparedSample[],
  counts: readonly RowCounts[],
  packing: Packing,
): ExactShape[] {
  const spread = (count: number): Counted[] =>
    Array.from({ length: count }, (_, part) => {
      const at = Math.floor(((part + 0.5) / count) * byTokens.length);
      return { sample: byTokens[at]!, counts: counts[at]! };
    });
  if (packing.by === "samples" && packing.samples === 1)
    return spread(TYPICAL).map((one) => shapeOfAll([one]));
  if (packing.by === "samples") return [shapeOfAll(spread(packing.samples))];
  const meanTokens = byTokens.reduce((sum, { tokens }) => sum + tokens, 0) / byTokens.length;
  const fitting = Math.min(WINDOW_DRAWS, Math.floor(packing.tokens / meanTokens));
  return [shapeOfAll(spread(Math.max(1, fitting)))];
}

interface Counted {
  sample: PreparedSample;
  counts: RowCounts;
}

/** Returns the shape of a micro-batch of these samples. */
function shapeOfAll(samples: readonly Counted[]): ExactShape {
  const imageSlices: ExactShape["imageSlices"] = [];
  const grids: ExactShape["grids"][number][] = [];
  let first = 0;
  for (const { sample } of samples) {
    let start = first;
    for (const grid of sample.grids) {
      const end = start + grid.tokens;
      imageSlices.push({ start, end, image: grids.length });
      grids.push(layoutOf(grid));
      start = end;
    }
    first += sample.tokens;
  }
  return {
    ...{ rows: samples.map(({ sample }) => sample.tokens), imageSlices, grids },
    labelTokens: samples.reduce((sum, { counts }) => sum + counts.labels, 0),
    firstLabel: samples[0]!.counts.tokens - samples[0]!.counts.asked,
  };
}

function mostTokensOf(byTokens: readonly PreparedSample[], packing: Packing): number {
  const longest = byTokens.at(-1)!.tokens;
  if (packing.by === "tokens") return Math.max(longest, Math.min(packing.tokens, WINDOW_DRAWS * longest));
  const largest = byTokens.slice(-packing.samples).reduce((sum, { tokens }) => sum + tokens, 0);
  const again = Math.max(0, packing.samples - byTokens.length); // the next epoch's, in a micro-batch across its end
  return largest + again * longest;
}
