/** What the data asks of memory: its longest micro-batch, and how those of a length may look at most. */
import { IGNORE } from "../data/dialogue.ts";
import type { Packing } from "../data/packing.ts";
import type { PreparedSample } from "../data/validate.ts";
import { type BatchShape, pictureTokens } from "../plan/batch.ts";

export interface Demand {
  /** The sample with the most tokens. */
  longest: PreparedSample;
  /** Of the largest micro-batch. */
  mostTokens: number;
  /** A micro-batch of so many tokens that takes as much memory as any of the data's up to there. */
  shapeOf(tokens: number): BatchShape;
}

/** Draws among which a pack looks for samples, at most: src/data/packing.ts. */
const PACK_DRAWS = 32;

export function demandOf(samples: readonly PreparedSample[], packing: Packing): Demand {
  const byTokens = [...samples].sort((one, other) => one.tokens - other.tokens);
  const labels = runningMost(byTokens.map(labelTokensOf));
  const pictures = mostPictures(byTokens);
  const longest = byTokens.at(-1)!;
  const isSingle = packing.by === "samples" && packing.samples === 1;
  return {
    longest,
    mostTokens: mostTokensOf(byTokens, packing),
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
      };
    },
  };
}

function mostTokensOf(byTokens: readonly PreparedSample[], packing: Packing): number {
  const longest = byTokens.at(-1)!.tokens;
  if (packing.by === "tokens") return Math.max(longest, Math.min(packing.tokens, PACK_DRAWS * longest));
  const largest = byTokens.slice(-packing.samples).reduce((sum, { tokens }) => sum + tokens, 0);
  const again = Math.max(0, packing.samples - byTokens.length); // the next epoch's, in a micro-batch across its end
  return largest + again * longest;
}

function labelTokensOf({ labels }: PreparedSample): number {
  return labels.reduce((count, label) => count + (label === IGNORE ? 0 : 1), 0);
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
