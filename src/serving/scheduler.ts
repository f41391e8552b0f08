/**
 * Decides what is computed next: which waiting requests begin, which pictures are encoded, which rows go into
 * a pass. Requests begin in the order they came, as soon as the pool has room for them with their answers.
 */
import { setImmediate } from "node:timers/promises";
import { messageOf, UserError } from "../errors.ts";
import { positionsAt } from "../models/positions.ts";
import { dispose, keep, type Tensor } from "../torch/tensor.ts";
import { chainTokens, chainUpTo, type KvSlots } from "./memory/kvPool.ts";
import { commonRows, PrefixCache } from "./memory/prefixCache.ts";
import { type PassLogits, type PassParts, runPass, type Slice } from "./pass/pass.ts";
import { type PictureOptions, Pictures } from "./requests/pictures.ts";
import type { Sequence } from "./requests/sequence.ts";

export interface SchedulerOptions extends Omit<PictureOptions, "onLoaded" | "model"> {
  parts: PassParts;
  slots: KvSlots;
  maxSequences: number;
  /** Rows of prompts in a pass. */
  chunkTokens: number;
}

/** Least rows that a beginning must share with a prompt under way to be worth waiting for. */
const SHARED_ROWS = 64;
/** Least rows before an unfinished picture that are computed without it. */
const LEAST_ROWS = 64;

/** Stands for the model without an adapter in the prefix cache. */
const NO_ADAPTER = Symbol("no adapter");

export class Scheduler implements Disposable {
  readonly #options: SchedulerOptions;
  readonly #cache: PrefixCache;
  readonly #pictures: Pictures;
  #waiting: Sequence[] = [];
  #running: Sequence[] = [];
  #loop: Promise<void> | undefined;
  #wake: (() => void) | undefined;

  constructor(options: SchedulerOptions) {
    const { parts, features, loader, visionBatchTiles } = options;
    this.#options = options;
    this.#cache = new PrefixCache(options.slots);
    const onLoaded = (): void => this.wake();
    this.#pictures = new Pictures({ model: parts.model, features, loader, visionBatchTiles, onLoaded });
  }

  get waiting(): number {
    return this.#waiting.length;
  }

  get running(): number {
    return this.#running.length;
  }

  get cachedTokens(): number {
    return this.#cache.cachedTokens;
  }

  get reservedTokens(): number {
    const { total, freeTokens } = this.#options.slots;
    return total - freeTokens - this.cachedTokens;
  }

  /** Queues a sequence. */
  add(sequence: Sequence): void {
    this.#waiting.push(sequence);
    this.#loop ??= this.#work();
    this.wake();
  }

  /** Has the loop look again at what there is to do. */
  wake(): void {
    this.#wake?.();
  }

  /** Resolves when no sequence is left. */
  async idle(): Promise<void> {
    while (this.#loop) await this.#loop;
  }

  /** Ends all sequences with an error. Those in a pass end after it. */
  failAll(error: UserError): void {
    for (const sequence of [...this.#waiting, ...this.#running]) {
      sequence.fail("engine", error);
      sequence.aborted = true;
    }
    this.wake();
  }

  /** Drops the keys and values that were computed with an adapter. */
  forget(adapter: unknown): void {
    this.#cache.forget(adapter);
  }

  [Symbol.dispose](): void {
    this.#cache.forget();
    this.#pictures[Symbol.dispose]();
  }

  async #work(): Promise<void> {
    try {
      while (this.#running.length > 0 || this.#waiting.length > 0)
        await this.#turn().catch((thrown) => this.#failWith([...this.#running, ...this.#waiting], thrown));
    } finally {
      this.#loop = undefined; // in the same turn as the look at what is left, so that no sequence is missed
    }
  }

  async #turn(): Promise<void> {
    this.#endAborted();
    this.#admit();
    if (this.#running.length === 0) return;
    const prompts = this.#prompts();
    this.#pictures.prepare(prompts);
    const encoded = this.#pictures.encodeBatch(prompts);
    const slices = this.#slices(prompts);
    if (slices.size > 0) await this.#pass(slices);
    else if (encoded || this.#running.length === 0) await setImmediate();
    else await this.#woken();
  }

  #woken(): Promise<void> {
    return new Promise((resolve) => {
      this.#wake = () => {
        this.#wake = undefined;
        resolve();
      };
    });
  }

  #endAborted(): void {
    for (const sequence of [...this.#waiting, ...this.#running].filter(({ aborted }) => aborted)) {
      this.#end(sequence);
      sequence.finish("aborted");
    }
  }

  /** Lets waiting sequences begin, in order, while there is room. */
  #admit(): void {
    while (this.#running.length < this.#options.maxSequences) {
      const [sequence] = this.#waiting;
      if (!sequence) return;
      if (!this.#reserve(sequence)) {
        if (this.#running.length > 0) return;
        throw new Error(
          `a pool of ${this.#options.slots.total} tokens has no room for ${sequence.totalTokens}`,
        );
      }
      this.#waiting.shift();
      this.#running.push(sequence);
      sequence.state = "running";
    }
  }

  /**
   * Reserves room for all of a sequence's tokens. A shared beginning keeps its whole segment. If there is no
   * room beside that segment, the sequence does without the beginning.
   */
  #reserve(sequence: Sequence): boolean {
    this.#lookUp(sequence);
    if (this.#reserveOwn(sequence)) return true;
    this.#options.slots.release(sequence.shared); // while it waits, others may need the room
    sequence.shared = [];
    [sequence.position, sequence.cachedTokens] = [0, 0];
    return this.#reserveOwn(sequence);
  }

  #reserveOwn(sequence: Sequence): boolean {
    const needed = sequence.totalTokens - sequence.sharedTokens;
    const own = this.#cache.makeRoom(needed) ? this.#options.slots.reserve(needed) : undefined;
    if (own) sequence.own = own;
    return own !== undefined;
  }

  /** Replaces a sequence's shared beginning by a longer one, if the cache has one by now. */
  #lookUp(sequence: Sequence): void {
    const { slots } = this.#options;
    const { promptKeys, promptTokens, sharedTokens, own, totalTokens } = sequence;
    const owner = sequence.adapter ?? NO_ADAPTER;
    const most = promptTokens - 1; // the last row gives the first logits
    if (this.#cache.knownTokens(owner, promptKeys, most) > sharedTokens) {
      const longer = this.#cache.take(owner, promptKeys, most);
      slots.release(sequence.shared);
      sequence.shared = longer;
      if (own.length > 0) sequence.own = slots.trim(own, totalTokens - chainTokens(longer));
    }
    sequence.position = sequence.sharedTokens;
    sequence.cachedTokens = sequence.sharedTokens;
    sequence.seenVersion = this.#cache.version;
  }

  /** Returns sequences whose prompts are to be computed; those that wait for another's beginning are not. */
  #prompts(): Sequence[] {
    const prompts: Sequence[] = [];
    for (const sequence of this.#running) {
      if (sequence.isAnswering) continue;
      const error = this.#pictures.errorOf(sequence);
      if (error) {
        sequence.fail("request", error);
        this.#end(sequence);
        continue;
      }
      const hasBegun = sequence.features !== undefined || sequence.position > sequence.sharedTokens;
      if (!hasBegun && sequence.seenVersion !== this.#cache.version) this.#lookUp(sequence);
      if (hasBegun || !prompts.some((earlier) => shares(earlier, sequence))) prompts.push(sequence);
    }
    return prompts;
  }

  /** Chooses the rows of the next pass: one of each answer, and as many of prompts as a pass takes. */
  #slices(prompts: readonly Sequence[]): Map<Slice, Sequence> {
    const rows = new Map<Sequence, number>();
    for (const sequence of this.#running) if (sequence.isAnswering) rows.set(sequence, 1);
    let left = this.#options.chunkTokens;
    for (const sequence of prompts) {
      const wanted = Math.min(left, sequence.promptTokens - sequence.position);
      const ready = this.#pictures.readyRows(sequence, wanted);
      if (ready === 0 || (ready < wanted && ready < LEAST_ROWS)) continue;
      rows.set(sequence, ready);
      left -= ready;
    }
    return new Map([...rows].map(([sequence, count]) => [this.#sliceOf(sequence, count), sequence]));
  }

  #sliceOf(sequence: Sequence, rows: number): Slice {
    const { position, promptTokens, adapter, chain } = sequence;
    const ids = sequence.nextIds(rows);
    const features = sequence.isAnswering
      ? []
      : this.#pictures.featuresIn(sequence, { start: position, end: position + rows });
    return {
      ...{ chain, start: position, ids, features: keep(features), adapter: adapter?.served },
      positions: positionsAt(sequence.positions, { start: position, end: position + ids.length }),
      asksLogits: position + rows >= promptTokens,
    };
  }

  async #pass(slices: ReadonlyMap<Slice, Sequence>): Promise<void> {
    const views: Tensor[] = [...slices.keys()].flatMap(({ features }) =>
      features.map(({ values }) => values),
    );
    const steps = runPass(this.#options.parts, [...slices.keys()]);
    let logits: PassLogits;
    try {
      for (let step = steps.next(); ; step = steps.next()) {
        if (step.done) {
          logits = step.value;
          break;
        }
        await setImmediate();
      }
    } catch (thrown) {
      this.#failWith([...slices.values()], thrown);
      return;
    } finally {
      steps.return(new Map());
      dispose(views);
    }
    for (const [slice, sequence] of slices) this.#advance(sequence, slice, logits.get(slice));
    await setImmediate();
  }

  #advance(sequence: Sequence, { ids }: Slice, logits: Float32Array | undefined): void {
    const wasAnswering = sequence.isAnswering;
    sequence.position += ids.length;
    if (!wasAnswering && sequence.isAnswering) this.#keepPrompt(sequence);
    if (!logits || sequence.aborted) return;
    try {
      const outcome = sequence.take(logits);
      if (outcome === "goes on") return;
      this.#end(sequence);
      sequence.finish(outcome);
    } catch (thrown) {
      this.#failWith([sequence], thrown);
    }
  }

  /** Lets others use a prompt's keys and values, and frees what only the prompt needed. */
  #keepPrompt(sequence: Sequence): void {
    this.#cache.add(
      sequence.adapter ?? NO_ADAPTER,
      sequence.promptKeys,
      chainUpTo(sequence.chain, sequence.promptTokens),
    );
    this.#pictures.release(sequence);
  }

  /** Frees what a sequence holds; its keys and values stay in the cache. */
  #end(sequence: Sequence): void {
    const { slots } = this.#options;
    this.#running = this.#running.filter((other) => other !== sequence);
    this.#waiting = this.#waiting.filter((other) => other !== sequence);
    sequence.state = "ended";
    this.#pictures.release(sequence);
    sequence.own = slots.trim(sequence.own, Math.max(0, sequence.position - sequence.sharedTokens));
    if (sequence.position > 0 && sequence.chain.length > 0)
      this.#cache.add(sequence.adapter ?? NO_ADAPTER, sequence.keysSoFar(), sequence.chain);
    slots.release(sequence.chain);
    [sequence.shared, sequence.own] = [[], []];
    sequence.onEnd?.();
    const { adapter } = sequence;
    if (adapter && --adapter.users === 0) adapter.onUnused?.();
  }

  #failWith(sequences: readonly Sequence[], thrown: unknown): void {
    const error =
      thrown instanceof UserError
        ? thrown
        : new UserError(`The request failed: ${messageOf(thrown)}`, { cause: thrown });
    for (const sequence of sequences) {
      if (sequence.state === "ended") continue;
      sequence.fail("engine", error);
      this.#end(sequence);
    }
  }
}

/** Returns whether a prompt begins with much that another one computes first. */
function shares(earlier: Sequence, later: Sequence): boolean {
  if (earlier.adapter !== later.adapter || earlier === later) return false;
  const common = commonRows(earlier.promptKeys, later.promptKeys, later.promptTokens - 1);
  return common >= later.position + SHARED_ROWS;
}
