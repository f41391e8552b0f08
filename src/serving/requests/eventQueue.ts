/** Passes events on to whoever reads them. The reader may come later, or leave early. */

export class EventQueue<Event> implements AsyncIterable<Event> {
  readonly #events: Event[] = [];
  readonly #onLeave: () => void;
  #ended = false;
  #wake: (() => void) | undefined;

  /** onLeave: called if the reader leaves before the end. */
  constructor(onLeave: () => void) {
    this.#onLeave = onLeave;
  }

  push(event: Event): void {
    if (this.#ended) return;
    this.#events.push(event);
    this.#wake?.();
  }

  /** Ends the queue after an event. */
  end(event: Event): void {
    this.push(event);
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Event, void> {
    try {
      for (;;) {
        for (let event = this.#events.shift(); event !== undefined; event = this.#events.shift()) yield event;
        if (this.#ended) return;
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = undefined;
      }
    } finally {
      if (!this.#ended) this.#onLeave();
      this.#events.length = 0;
    }
  }
}
