/**
 * Shares out the micro-batches of a step among ranks. All ranks know one order of micro-batches; each loads
 * the pictures of its own alone. The next step's share is loaded ahead.
 */
import { type BatchOptions, loadBatches, type MicroBatch, plansOf } from "../../data/stream/batches.ts";
import type { DataPosition, PlannedBatch } from "../../data/stream/packing.ts";
import { inTurn, sharedOut } from "./shareOut.ts";

export interface ShareOptions extends BatchOptions {
  rank: number;
  ranks: number;
  /**
   * Whether micro-batches are taken in turn, a round at a time, so that gradients can be added up in their
   * order. Otherwise ranks get about as many tokens each, in one round.
   */
  inOrder: boolean;
}

/** The micro-batches of a step, and this rank's own among them. */
export interface Share extends AsyncDisposable {
  /** Micro-batches of all ranks. */
  readonly count: number;
  readonly epoch: number;
  /** Position after the share. */
  readonly after: DataPosition;
  /** Indices of this rank's micro-batches in the share, by round; as many rounds on every rank. */
  readonly rounds: readonly (readonly number[])[];
  /** Returns a micro-batch, in ascending order; undefined if all of its samples are left out. */
  take(index: number): Promise<MicroBatch | undefined>;
}

export class Shares implements AsyncDisposable {
  readonly #options: ShareOptions;
  #ahead: { share: Share; from: DataPosition; wanted: number } | undefined;

  constructor(options: ShareOptions) {
    this.#options = options;
  }

  /** Returns the share of the next `wanted` micro-batches; it has none at the end of the data. */
  async open(from: DataPosition, wanted: number): Promise<Share> {
    const ahead = this.#ahead;
    this.#ahead = undefined;
    if (ahead?.from === from && ahead.wanted === wanted) return ahead.share;
    await ahead?.share[Symbol.asyncDispose]();
    return openShare(this.#options, from, wanted);
  }

  /** Begins to load the share that is expected next. */
  prepare(from: DataPosition, wanted: number): void {
    this.#ahead ??= { share: openShare(this.#options, from, wanted), from, wanted };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#ahead?.share[Symbol.asyncDispose]();
    this.#ahead = undefined;
  }
}

function openShare(options: ShareOptions, from: DataPosition, wanted: number): Share {
  const { samples, sampler } = options;
  const plans = firstOf(plansOf(options, from), wanted);
  const tokensOf = ({ draws }: PlannedBatch): number =>
    draws.reduce((sum, draw) => sum + samples[sampler.at(draw).sample]!.tokens, 0);
  const rounds = roundsOf(plans.map(tokensOf), options);
  const own = rounds.flat().map((index) => plans[index]!);
  const batches = loadBatches(own, options);
  let coming: Promise<IteratorResult<MicroBatch>> | undefined;
  const next = (): Promise<IteratorResult<MicroBatch>> => {
    coming ??= batches.next();
    coming.catch(() => {}); // it may fail before anybody waits
    return coming;
  };
  void next(); // begins to load pictures
  return {
    count: plans.length,
    epoch: plans.length > 0 ? sampler.at(plans.at(-1)!.draws[0]!).epoch : 0,
    after: plans.at(-1)?.after ?? from,
    rounds,
    async take(index) {
      const { value, done } = await next();
      if (done || value.position !== plans[index]!.after) return undefined;
      coming = undefined;
      return value;
    },
    async [Symbol.asyncDispose]() {
      void batches.return(undefined); // if it waits for a picture that does not come, closing the pool ends it
    },
  };
}

function roundsOf(tokens: readonly number[], { rank, ranks, inOrder }: ShareOptions): number[][] {
  if (!inOrder) return [sharedOut(tokens, ranks)[rank]!];
  return inTurn(tokens.length, ranks).map((indices) => (rank < indices.length ? [indices[rank]!] : []));
}

function firstOf<T>(items: Iterator<T>, count: number): T[] {
  const taken: T[] = [];
  while (taken.length < count) {
    const { value, done } = items.next();
    if (done) break;
    taken.push(value);
  }
  return taken;
}
