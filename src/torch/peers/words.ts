/** Small facts that ranks tell each other through the store. */
import { type Handle, native } from "../native.ts";
import type { Json } from "./peers.ts";

/** Patience of a wait that only the loss of the group ends; milliseconds. */
const FOR_EVER = 1e12;

/**
 * Rounds in which every rank tells a value and reads all others'. They follow each other in the order of the
 * calls. The keys of a round are deleted when the next round shows that all have read them.
 */
export class Words {
  readonly #store: Handle;
  readonly #rank: number;
  readonly #count: number;
  readonly #orLost: <T>(promise: Promise<T>) => Promise<T>;
  #round = 0;
  #last: Promise<unknown> = Promise.resolve();

  constructor(
    store: Handle,
    { rank, count }: { rank: number; count: number },
    orLost: <T>(promise: Promise<T>) => Promise<T>,
  ) {
    this.#store = store;
    this.#rank = rank;
    this.#count = count;
    this.#orLost = orLost;
  }

  tell(key: string, value: Json): Promise<Json[]> {
    const written = JSON.stringify([key, value]);
    const told = this.#last.then(() => this.#tell(key, written));
    this.#last = told.catch(() => {});
    return told;
  }

  async #tell(key: string, written: string): Promise<Json[]> {
    const bytes = await this.#orLost(this.#exchange(key, written));
    const told = bytes.map((each) => JSON.parse(new TextDecoder().decode(each)) as [string, Json]);
    const other = told.findIndex(([theirs]) => theirs !== key);
    if (other >= 0)
      throw new Error(`ranks tell different facts: rank ${other} "${told[other]![0]}", this rank "${key}"`);
    return told.map(([, value]) => value);
  }

  async #exchange(key: string, written: string): Promise<Uint8Array[]> {
    const round = this.#round++;
    await native.storeSet(this.#store, this.#key(round, this.#rank), new TextEncoder().encode(written));
    const keys = Array.from({ length: this.#count }, (_, rank) => this.#key(round, rank));
    const bytes = await native.storeGet(this.#store, keys, `"${key}", fact ${round + 1}`, FOR_EVER);
    if (round > 0) await native.storeDelete(this.#store, this.#key(round - 1, this.#rank));
    return bytes;
  }

  #key(round: number, rank: number): string {
    return `tell/${round}/${rank}`;
  }
}
