/** What the data asks of memory: its longest micro-batch, and how those of a length may look at most. */

import { imageTokens, pictureTokens } from "../../data/pictures/image.ts";
import { countLabels, firstLabel } from "../../data/samples/rows.ts";
import { IMAGE_SLOT } from "../../data/samples/sample.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { type Packing, WINDOW_DRAWS } from "../../data/stream/packing.ts";
import type { BatchShape, ExactShape } from "../../plan/dryRun/batchShapes.ts";

export interface Demand {
  /** The sample with the most tokens. */
  longest: PreparedSample;
  /** Of the largest micro-batch. */
  mostTokens: number;
  /** A few micro-batches as the data makes them, from short to long; pictures come first in each sample. */
  typical: readonly ExactShape[];
  /** A micro-batch of so many tokens that takes as much memory as any of the data's up to there. */
  shapeOf(tokens: number): BatchShape;
}

/** What the samples ask of memory, as they will be packed; there must be one at least. */
export function demandOf(samples: readonly PreparedSample[], packing: Packing): Demand {
  const byTokens = [...samples].sort((one, other) => one.tokens - other.tokens);
  const labels = runningMost(byTokens.map(labelTokensOf));
  const asked = runningMost(byTokens.map(askedTokensOf));
  const pictures = mostPictures(byTokens);
  const longest = byTokens.at(-1)!;
  const isSingle = packing.by === "samples" && packing.samples === 1;
  return {
    longest,
    mostTokens: mostTokensOf(byTokens, packing),
    typical: typicalShapes(byTokens, packing),
    shapeOf(tokens) {
      const last = Math.max(
        0,
        byTokens.findLastIndex((sample) => sample.tokens <= tokens),
      );
      const most = isSingle ? labels[last]! : tokens - 1; // a pack may be all text
      return {
        samples: 1,
        sampleTokens: tokens,
        pictures: isSingle ? pictures[last]! : repeated(pictures[last]!, tokens),
        labelTokens: Math.max(1, Math.min(most, tokens - 1)),
        ...(isSingle && { askedTokens: Math.min(asked[last]!, tokens) }),
      };
    },
  };
}

/** How many micro-batches stand for all. */
const TYPICAL = 3;

/** Single samples from each part of the data; of micro-batches that hold several, one of samples from all parts. */
function typicalShapes(byTokens: readonly PreparedSample[], packing: Packing): ExactShape[] {
  const spread = (count: number): PreparedSample[] =>
    Array.from(
      { length: count },
      (_, part) => byTokens[Math.floor(((part + 0.5) / count) * byTokens.length)]!,
    );
  if (packing.by === "samples" && packing.samples === 1)
    return spread(TYPICAL).map((one) => shapeOfAll([one]));
  if (packing.by === "samples") return [shapeOfAll(spread(packing.samples))];
  const meanTokens = byTokens.reduce((sum, { tokens }) => sum + tokens, 0) / byTokens.length;
  const fitting = Math.min(WINDOW_DRAWS, Math.floor(packing.tokens / meanTokens));
  return [shapeOfAll(spread(Math.max(1, fitting)))];
}

/** A micro-batch of these samples. */
function shapeOfAll(samples: readonly PreparedSample[]): ExactShape {
  const imageSlices: ExactShape["imageSlices"] = [];
  const grids: ExactShape["grids"][number][] = [];
  let first = 0;
  for (const sample of samples) {
    let start = first;
    for (const { rows, cols } of sample.grids) {
      const end = start + imageTokens(rows, cols);
      imageSlices.push({ start, end, image: grids.length });
      grids.push({ rows, cols });
      start = end;
    }
    first += sample.tokens;
  }
  const labelTokens = samples.reduce((sum, sample) => sum + labelTokensOf(sample), 0);
  const firstLabel = samples[0]!.tokens - askedTokensOf(samples[0]!);
  return { rows: samples.map(({ tokens }) => tokens), imageSlices, grids, labelTokens, firstLabel };
}

function mostTokensOf(byTokens: readonly PreparedSample[], packing: Packing): number {
  const longest = byTokens.at(-1)!.tokens;
  if (packing.by === "tokens") return Math.max(longest, Math.min(packing.tokens, WINDOW_DRAWS * longest));
  const largest = byTokens.slice(-packing.samples).reduce((sum, { tokens }) => sum + tokens, 0);
  const again = Math.max(0, packing.samples - byTokens.length); // the next epoch's, in a micro-batch across its end
  return largest + again * longest;
}

function labelTokensOf({ labels }: PreparedSample): number {
  return countLabels(labels);
}

/** Rows from the one whose target is the first label on; a label in the first row is nobody's target. */
function askedTokensOf({ inputIds, labels, grids }: PreparedSample): number {
  const first = firstLabel(labels, 1);
  if (first === undefined) return 1;
  const after = inputIds.subarray(first);
  const pictures = after.reduce((count, id) => count + (id === IMAGE_SLOT ? 1 : 0), 0);
  const later = pictures === 0 ? [] : grids.slice(-pictures);
  return 1 + after.length - pictures + pictureTokens(later);
}

/** Of each sample and those before it, the grids of the one with the most image tokens. */
function mostPictures(samples: readonly PreparedSample[]): BatchShape["pictures"][] {
  let most: BatchShape["pictures"] = [];
  return samples.map(({ grids }) => {
    if (pictureTokens(grids) > pictureTokens(most)) most = grids.map(({ rows, cols }) => ({ rows, cols }));
    return most;
  });
}

/** As many pictures as so many tokens hold. */
function repeated(pictures: BatchShape["pictures"], tokens: number): BatchShape["pictures"] {
  const times = pictures.length === 0 ? 0 : Math.floor(tokens / pictureTokens(pictures));
  return Array.from({ length: times }, () => pictures).flat();
}

function runningMost(counts: readonly number[]): number[] {
  let most = 0;
  return counts.map((count) => {
    most = Math.max(most, count);
    return most;
  });
}
