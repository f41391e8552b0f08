/**
 * One step of the optimizer by all ranks: each computes its share of the micro-batches, the gradients are
 * added up, and every rank makes the same update. Whatever decides how the run goes on is told to all ranks
 * before anyone acts on it, so that all start the same collectives.
 *
 * A micro-batch has no collective, unless ranks share its rows, but those of a shared base, which are ordered
 * by rounds (step/rounds.ts). So a rank may repeat one under a leaner policy while the others wait.
 */

import type { UserError } from "../../errors.ts";
import { zeroGradients } from "../../models/lora.ts";
import { meetRanks } from "../../step/rounds.ts";
import { computesBeside } from "../../torch/device.ts";
import type { Pending } from "../../torch/peers/peers.ts";
import { type Accumulated, emptyStep } from "../folder/checkpoints.ts";
import { waitFor } from "../loop/dataWait.ts";
import type { Running } from "../loop/running.ts";
import { NotFiniteError } from "../loop/stopErrors.ts";
import { accumulate, updateFactors } from "../loop/takeStep.ts";
import { counts } from "./rowSharing.ts";
import type { Share } from "./shares.ts";
import type { Together } from "./together.ts";

/** Facts that a rank tells after a round of micro-batches. */
interface RoundFacts {
  /** Index in the step and weighted loss of each micro-batch. */
  losses: (readonly [index: number, loss: number])[];
  weightSum: number;
  tokens: number;
  /** Time from the start of the round until the rank had computed its own part. */
  busyMs: number;
  dataWaitMs: number;
  /** Whether somebody has asked this rank to stop. */
  stops: boolean;
  /** A number that is not finite ends the run on every rank. */
  failed: { message: string; fix: string } | null;
}

/** Saves what can be saved if `part` fails, then throws the error. */
export type Saving = <T>(run: Running, part: () => Promise<T>) => Promise<T>;

/** Takes one step. `interrupted`: somebody has asked a rank to stop; the step is done all the same. */
export async function stepTogether(
  run: Running,
  together: Together,
  savingFirst: Saving,
): Promise<"done" | "interrupted" | "no data"> {
  const { state } = run.progress;
  run.watch.startStep();
  const step = new StepOfRanks(run, together);
  const saving = <T>(part: () => Promise<T>): Promise<T> =>
    part().catch((thrown) => {
      const isKept = step.rewind();
      if (!isKept) throw thrown; // the last checkpoint has more than this step's start
      return savingFirst(run, () => Promise.reject(thrown));
    });
  const accumulation = run.inputs.options.gradient_accumulation;
  while (step.done < accumulation) {
    const share = await together.shares.open(state.data, accumulation - step.done);
    if (share.count === 0) break;
    await step.take(share, saving);
  }
  if (step.done === 0) return "no data";
  if (together.exact) await saving(() => arrived(run, together.sum.finish()));
  step.settle();
  await updateFactors(run);
  return step.stops ? "interrupted" : "done";
}

/** Waits for collectives one after the other, without blocking the event loop on a CPU. */
async function arrived(run: Running, collectives: Generator<Pending, void>): Promise<void> {
  for (const pending of collectives) {
    if (!computesBeside(run.loaded.model.device)) await pending.arrival();
    pending.wait();
  }
}

class StepOfRanks {
  /** Micro-batches that all ranks have done. */
  done: number;
  stops = false;
  readonly #run: Running;
  readonly #together: Together;
  readonly #startMs = performance.now();
  /** The state before the step. */
  readonly #before: { data: Running["progress"]["state"]["data"]; microBatches: number; sums: Accumulated };
  /** Told by all ranks. */
  readonly #facts: RoundFacts[] = [];
  /** Micro-batches of the shares before. */
  #first: number;
  #epoch = 0;
  /** Time that ranks on average waited for the slowest. */
  #waitedMs = 0;

  constructor(run: Running, together: Together) {
    this.#run = run;
    this.#together = together;
    const { data, microBatches, accumulated } = run.progress.state;
    this.#before = { data, microBatches, sums: { ...accumulated } };
    this.done = accumulated.microBatches;
    this.#first = accumulated.microBatches;
    // gradients of a checkpoint within a step are rank 0's
    if (together.peers.rank > 0) run.progress.state.accumulated = emptyStep();
  }

  /** Whether an earlier share of the step has been added up. */
  #isSummed = false;

  /** Computes this rank's micro-batches of a share, and adds up gradients with the others. */
  async take(share: Share, saving: <T>(part: () => Promise<T>) => Promise<T>): Promise<void> {
    const { progress, inputs, loaded } = this.#run;
    const { peers, exact, sum, shares } = this.#together;
    const own = share.rounds.flat();
    if (this.#isSummed && !exact && peers.rank > 0) zeroGradients(loaded.lora); // the sum so far counts once
    progress.ownMicroBatches = progress.state.accumulated.microBatches + own.length;
    for (const [round, indices] of share.rounds.entries()) {
      const facts = await this.#compute(share, indices, saving);
      if (round === share.rounds.length - 1)
        shares.prepare(share.after, inputs.options.gradient_accumulation);
      const key = `step ${progress.state.step + 1}, micro-batch ${this.#first + 1}, round ${round + 1}`;
      await saving(() => meetRanks(this.#run.loaded.model));
      const told = await saving(() => peers.tell(key, facts as never));
      // also if a rank has failed: the sum may be under way
      await saving(() => arrived(this.#run, exact ? sum.add() : sum.finish()));
      this.#note(told as never);
    }
    this.#isSummed = true;
    this.#first += share.count;
    this.#epoch = share.epoch;
    progress.state.data = share.after;
  }

  async #compute(
    share: Share,
    indices: readonly number[],
    saving: <T>(part: () => Promise<T>) => Promise<T>,
  ): Promise<RoundFacts> {
    const run = this.#run;
    const { state } = run.progress;
    const startMs = performance.now();
    const before = { ...state.accumulated };
    const taken: number[] = [];
    const { under } = run;
    const told = under.weightedLosses.length;
    let failed: RoundFacts["failed"] = null;
    try {
      for (const index of indices) {
        const beganMs = performance.now();
        const waited = await saving(() =>
          waitFor(share.take(index), { signal: undefined, isBusy: () => run.late.isBusy() }),
        );
        state.accumulated.dataWaitMs += waited!.stalledMs;
        if (!waited!.value) continue;
        taken.push(this.#first + index);
        state.microBatches = this.#before.microBatches + this.#first - this.#before.sums.microBatches + index;
        const at = { startMs: beganMs, dataWaitMs: waited!.stalledMs, number: this.#first + index + 1 };
        await accumulate(run, waited!.value, at);
      }
      await run.late.all();
    } catch (thrown) {
      if (!(thrown instanceof NotFiniteError)) throw thrown;
      failed = { message: thrown.message, fix: thrown.fix ?? "" };
    }
    const sums = state.accumulated;
    const own = counts(run) ? 1 : 0;
    const losses = taken.map((index, at) => [index, under.weightedLosses[told + at]!] as const);
    return {
      losses: failed || own === 0 ? [] : losses,
      weightSum: own * (sums.weightSum - before.weightSum),
      tokens: own * (sums.tokens - before.tokens),
      busyMs: performance.now() - startMs,
      dataWaitMs: sums.dataWaitMs - before.dataWaitMs,
      stops: run.signal?.aborted ?? false,
      failed,
    };
  }

  #note(told: readonly RoundFacts[]): void {
    const failed = told.findIndex((facts) => facts.failed);
    if (failed >= 0) throw failureOf(told[failed]!.failed!, failed, this.#together.peers.count);
    const slowestMs = Math.max(...told.map(({ busyMs }) => busyMs));
    this.#waitedMs += told.reduce((sum, { busyMs }) => sum + slowestMs - busyMs, 0) / told.length;
    this.done += told.reduce((sum, { losses }) => sum + losses.length, 0);
    this.stops ||= told.some(({ stops }) => stops);
    this.#facts.push(...told);
  }

  /** Gives the run's state the sums of all ranks. */
  settle(): void {
    const { progress, under } = this.#run;
    const { sums } = this.#before;
    const facts = this.#facts;
    const total = (of: (facts: RoundFacts) => number): number =>
      facts.reduce((sum, each) => sum + of(each), 0);
    const losses = facts.flatMap((each) => each.losses).sort(([one], [other]) => one - other);
    progress.state.microBatches = this.#before.microBatches + this.#first - sums.microBatches;
    progress.state.accumulated = {
      microBatches: this.done,
      weightSum: sums.weightSum + total(({ weightSum }) => weightSum),
      lossSum: losses.reduce((sum, [, loss]) => sum + loss, sums.lossSum),
      tokens: sums.tokens + total(({ tokens }) => tokens),
      elapsedMs: sums.elapsedMs + performance.now() - this.#startMs,
      dataWaitMs: sums.dataWaitMs + total(({ dataWaitMs }) => dataWaitMs) / this.#together.peers.count,
      epoch: this.#epoch,
    };
    under.ranks = { ranks: this.#together.peers.count, waitedMs: this.#waitedMs };
  }

  /**
   * Takes the state back to before the step; the factors are still those. Returns whether the gradients were
   * zero then, so that a checkpoint can be written.
   */
  rewind(): boolean {
    const { state } = this.#run.progress;
    const { data, microBatches, sums } = this.#before;
    Object.assign(state, { data, microBatches, accumulated: emptyStep() });
    return sums.microBatches === 0;
  }
}

function failureOf(
  { message, fix }: { message: string; fix: string },
  rank: number,
  ranks: number,
): UserError {
  return new NotFiniteError(ranks > 1 ? `Rank ${rank}: ${message}` : message, { fix });
}
