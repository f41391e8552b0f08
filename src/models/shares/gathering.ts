/**
 * Brings the parts of a shared base together, on every rank at the same time. A gather needs all ranks, so
 * all have to gather the same parts in the same order, whatever their micro-batches hold: that order is a
 * round, which they agree on beforehand (step/rounds.ts). A rank takes part in gathers that it has no use
 * for, and drops what they bring.
 */
import { UserError } from "../../errors.ts";
import { empty } from "../../torch/create.ts";
import { type Category, category, emptyCache, OutOfMemoryError, pool } from "../../torch/device.ts";
import type { Device } from "../../torch/dtypes.ts";
import type { Json, Peers, Pending } from "../../torch/peers/peers.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import { countCollective } from "../../torch/trace.ts";
import type { Fetch, SharedPart } from "../places.ts";
import { type Share, viewsOf } from "./share.ts";

/** A part of the base: one of three by name, or a layer by its index. */
export type PartName = "embeddings" | "head" | "vision" | number;

export class Gathering {
  readonly peers: Peers;
  readonly #shares: ReadonlyMap<PartName, Share>;
  readonly #device: Device;
  /** Gathers of the open round that are to come; undefined: each is done when it is asked for. */
  #toCome: PartName[] | undefined;
  /** Whether other ranks may have pictures where this one has none, as a plan assumes. */
  readonly #isPlan: boolean;
  #rounds = 0;

  constructor(peers: Peers, shares: ReadonlyMap<PartName, Share>, device: Device) {
    this.peers = peers;
    this.#shares = shares;
    this.#device = device;
    this.#isPlan = device === "meta" && peers.count > 1;
  }

  has(name: PartName): boolean {
    return this.#shares.has(name);
  }

  /** Tells all ranks what this one needs in the next round, and returns what each said. */
  async tell(needs: Json): Promise<Json[]> {
    return await this.peers.tell(`round ${this.#rounds++} of the shared base`, needs);
  }

  /** Opens a round: the gathers that all ranks do now, in this order. */
  open(order: readonly PartName[]): void {
    this.#toCome = order.filter((name) => this.has(name));
  }

  /**
   * Takes part in what is left of the round, and closes it. The event loop goes on meanwhile. For ranks that
   * have nothing to compute, have computed everything, or have run out of memory. Throws UserError without
   * room for a part: the other ranks are in the round, so this one can't begin another under a leaner policy.
   */
  async attend(): Promise<void> {
    for (let name = this.#toCome?.[0]; name !== undefined; name = this.#toCome?.[0]) {
      const whole = this.#roomBesideRound(name);
      try {
        using pending = this.#next(whole);
        await pending.arrival();
        pending.wait();
      } finally {
        whole.dispose();
      }
    }
    this.#toCome = undefined;
  }

  /**
   * Takes part in a gather of a part that this rank does not need, if it is the next one of the round.
   */
  passBy(name: PartName): void {
    if (!this.has(name) || (this.#toCome ? this.#toCome[0] !== name : !this.#isPlan)) return;
    using whole = this.#room(this.#shareOf(name), "weights");
    this.#gather(name, whole).wait();
    this.#expose(name, whole);
    if (this.#toCome) this.#toCome.shift();
  }

  /** Returns a part as the table of places knows it. */
  part(name: PartName): SharedPart {
    return {
      startFetch: (outline, bookedTo) => this.#startFetch(name, outline, bookedTo),
      onDevice: (outline) => {
        const share = this.#shareOf(name);
        const whole = this.#room(share, "weights", { isKept: false });
        this.#start(name, whole).wait();
        this.#expose(name, whole);
        return viewsOf(outline, share, whole);
      },
    };
  }

  #startFetch<T>(name: PartName, outline: T, bookedTo: Category): Fetch<T> {
    const share = this.#shareOf(name);
    const whole = this.#room(share, bookedTo);
    let [pending, views]: [Pending | undefined, T | undefined] = [undefined, undefined];
    const free = (): void => {
      pending?.[Symbol.dispose]();
      dispose([whole, views]);
    };
    try {
      pending = this.#start(name, whole);
    } catch (thrown) {
      free();
      throw thrown;
    }
    return {
      wait: () => {
        pending?.wait();
        pending = undefined;
        views ??= keep(viewsOf(outline, share, whole));
        return views;
      },
      expose: () => this.#expose(name, whole),
      [Symbol.dispose]: free,
    };
  }

  /** Starts the gather of a part, after those before it in the round, which this rank has no use for. */
  #start(name: PartName, whole: Tensor): Pending {
    if (!this.#toCome) return this.#gather(name, whole);
    if (!this.#toCome.includes(name)) throw new Error(`part ${name} is not to come in the round`);
    for (let next = this.#toCome[0]!; next !== name; next = this.#toCome[0]!) {
      const { wholeBytes } = this.#shareOf(next);
      const isRoom = wholeBytes <= whole.numel; // the same bytes serve: what comes is dropped
      using room = isRoom ? whole.narrow(0, 0, wholeBytes) : this.#room(this.#shareOf(next), "weights");
      this.#next(room).wait();
    }
    return this.#next(whole);
  }

  /** Starts the next gather of the round. */
  #next(whole: Tensor): Pending {
    const pending = this.#gather(this.#toCome![0]!, whole);
    this.#toCome!.shift();
    return pending;
  }

  #gather(name: PartName, whole: Tensor): Pending {
    return this.peers.gather(this.#shareOf(name).own, whole);
  }

  /** Counts, in a plan, that nothing computes while a part comes. */
  #expose(name: PartName, whole: Tensor): void {
    if (this.#isPlan)
      countCollective("gather", this.peers.count, [this.#shareOf(name).own], whole, { exposed: true });
  }

  #shareOf(name: PartName): Share {
    const share = this.#shares.get(name);
    if (!share) throw new Error(`part ${name} is not shared`);
    return share;
  }

  /** Returns room for a part. If there is none, frees what the allocator holds unused, and tries again. */
  #roomBesideRound(name: PartName): Tensor {
    const room = (): Tensor => this.#room(this.#shareOf(name), "weights");
    try {
      return room();
    } catch (thrown) {
      if (!(thrown instanceof OutOfMemoryError) || this.#device === "meta") throw thrown;
      emptyCache(this.#device);
    }
    try {
      return room();
    } catch (thrown) {
      if (!(thrown instanceof OutOfMemoryError)) throw thrown;
      const part = typeof name === "number" ? `layer ${name + 1}` : name;
      throw new UserError(
        `There is no memory for ${part} of the shared base while other ranks compute: ${thrown.message}.`,
        { fix: "Give the run more memory with --memory, or plan it with --gpus.", cause: thrown },
      );
    }
  }

  /** Returns room for all bytes of a part; the caller disposes it, or the open scope if it is not kept. */
  #room({ wholeBytes }: Share, bookedTo: Category, { isKept = true } = {}): Tensor {
    const room = category(bookedTo, () =>
      pool("device", () => scope(() => empty([wholeBytes], { dtype: "uint8", device: this.#device }))),
    );
    return isKept ? keep(room) : room;
  }
}
