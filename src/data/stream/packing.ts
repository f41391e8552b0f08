/**
 * Packs draws into micro-batches: a fixed number of samples each, or as many as fill a sequence. It reads
 * only token counts, so the number of micro-batches of a run is known without loading anything.
 */

/** The rule by which samples share a sequence: a fixed number, or as many as fit a number of tokens. */
export type Packing = { by: "samples"; samples: number } | { by: "tokens"; tokens: number };

/** The position of a stream of micro-batches: plain data, saved with a checkpoint. */
export interface DataPosition {
  /** The first draw that was not considered yet. */
  next: number;
  /** Draws that were considered and did not fit yet, oldest first. */
  waiting: number[];
}

export interface PlannedBatch {
  draws: number[];
  after: DataPosition;
}

export const START: DataPosition = { next: 0, waiting: [] };

/** Waiting samples that fill a sequence. More fill it better, and depart further from the order of draws. */
export const WINDOW_DRAWS = 32;

/**
 * Yields micro-batches of the draws before `end`, from a position on. tokensOf returns the tokens of a draw.
 */
export function* planBatches(
  tokensOf: (draw: number) => number,
  packing: Packing,
  end: number,
  from: DataPosition = START,
): Generator<PlannedBatch> {
  let position = from;
  while (position.waiting.length > 0 || position.next < end) {
    const window = fillWindow(position, packing.by === "samples" ? packing.samples : WINDOW_DRAWS, end);
    const draws =
      packing.by === "samples"
        ? window.waiting.slice(0, packing.samples)
        : firstFit(window.waiting, tokensOf, packing.tokens);
    position = { next: window.next, waiting: window.waiting.filter((draw) => !draws.includes(draw)) };
    yield { draws, after: position };
  }
}

/** Returns the number of micro-batches. */
export function countBatches(tokensOf: (draw: number) => number, packing: Packing, end: number): number {
  if (packing.by === "samples") return Math.ceil(end / packing.samples);
  let count = 0;
  for (const _ of planBatches(tokensOf, packing, end)) count++;
  return count;
}

function fillWindow({ next, waiting }: DataPosition, draws: number, end: number): DataPosition {
  const added = Math.max(0, Math.min(draws - waiting.length, end - next));
  return {
    next: next + added,
    waiting: [...waiting, ...Array.from({ length: added }, (_, index) => next + index)],
  };
}

/** Returns the oldest draw, so that none waits for ever, and each later draw that still fits. */
function firstFit(
  waiting: readonly number[],
  tokensOf: (draw: number) => number,
  capacityTokens: number,
): number[] {
  const taken: number[] = [];
  let tokens = 0;
  for (const draw of waiting) {
    const drawTokens = tokensOf(draw);
    if (taken.length > 0 && tokens + drawTokens > capacityTokens) continue;
    taken.push(draw);
    tokens += drawTokens;
  }
  return taken;
}
