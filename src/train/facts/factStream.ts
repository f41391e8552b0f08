/** Hands the facts of a run to its sinks. */
import type { Fact, RunFact, RunSink } from "./runFact.ts";

export class FactStream {
  readonly #outlets: readonly Outlet[];
  #failure: { cause: unknown } | undefined;

  constructor(sinks: readonly RunSink[]) {
    this.#outlets = sinks.map((sink) => new Outlet(sink));
  }

  /** Hands a fact to every sink, one after the other, and waits for each. Throws what a sink throws. */
  async send(fact: Fact): Promise<void> {
    this.#throwFailure();
    const dated = { atMs: Date.now(), ...fact };
    for (const outlet of this.#outlets) {
      const taken = outlet.take(dated);
      if (taken) await taken;
    }
  }

  /**
   * Hands over a fact from code that can't wait. No sink waits for another. The next send() throws what a
   * sink throws.
   */
  say(fact: Fact): void {
    const dated = { atMs: Date.now(), ...fact };
    const fail = (cause: unknown): void => {
      this.#failure ??= { cause };
    };
    for (const outlet of this.#outlets) {
      try {
        outlet.take(dated)?.catch(fail);
      } catch (cause) {
        fail(cause);
      }
    }
  }

  /** Tells the user something. about: what scripts are told as well. */
  readonly notice = (text: string, about?: "idleCard"): void => {
    this.say({ fact: "notice", text, ...(about && { about }) });
  };

  #throwFailure(): void {
    const failure = this.#failure;
    this.#failure = undefined;
    if (failure) throw failure.cause;
  }
}

/** Hands a sink its facts in order: the next one when the sink has taken the one before. */
class Outlet {
  readonly #sink: RunSink;
  /** Settles when the sink has taken all facts so far; undefined if it has. */
  #pending: Promise<void> | undefined;

  constructor(sink: RunSink) {
    this.#sink = sink;
  }

  /** Hands over a fact, at once if the sink is not busy. Returns nothing if the sink has taken it already. */
  take(fact: RunFact): Promise<void> | undefined {
    const taken = this.#pending ? this.#pending.then(() => this.#sink.take(fact)) : this.#sink.take(fact);
    if (!taken) return undefined;
    const settled = taken
      .catch(() => {})
      .then(() => {
        if (this.#pending === settled) this.#pending = undefined;
      });
    this.#pending = settled;
    return taken;
  }
}
