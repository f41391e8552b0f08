/** Hands the facts of a run to its sinks. */
import type { Fact, RunSink } from "./runFact.ts";

export class FactStream {
  readonly #sinks: readonly RunSink[];
  #failure: { cause: unknown } | undefined;

  constructor(sinks: readonly RunSink[]) {
    this.#sinks = sinks;
  }

  /** Hands a fact to every sink, one after the other, and waits for each. Throws what a sink throws. */
  async send(fact: Fact): Promise<void> {
    this.#throwFailure();
    const dated = { atMs: Date.now(), ...fact };
    for (const sink of this.#sinks) {
      const taken = sink.take(dated);
      if (taken) await taken;
    }
  }

  /** Hands over a fact from code that can't wait. What a sink throws comes out of the next send(). */
  say(fact: Fact): void {
    this.send(fact).catch((cause: unknown) => {
      this.#failure ??= { cause };
    });
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
