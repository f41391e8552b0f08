/**
 * Turns ids into pieces of text as they come. A character may be spread over several ids, and a stop text may
 * begin at the end of a piece: both are held back until it is clear what they are.
 */
import type { Tokenizer } from "./tokenizer.ts";

/** Stands for bytes that make no character, perhaps only not yet. */
const UNFINISHED = "\ufffd";

export class TextStream {
  readonly #tokenizer: Pick<Tokenizer, "decode">;
  readonly #stops: readonly string[];
  readonly #ids: number[] = [];
  /** The window of ids that is decoded again with each id: text before it never changes. */
  #windowStart = 0;
  /** Ids whose text has been read. */
  #readIds = 0;
  /** Text that has been read, and not passed on yet. */
  #held = "";
  #stopped = false;

  constructor(tokenizer: Pick<Tokenizer, "decode">, stops: readonly string[] = []) {
    this.#tokenizer = tokenizer;
    this.#stops = stops.filter((stop) => stop !== "");
  }

  /** Whether a stop text came. Nothing follows it. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** Adds an id. Returns the text that is certain now. */
  add(id: number): string {
    if (this.#stopped) return "";
    this.#ids.push(id);
    const { before, all } = this.#decodeWindow();
    if (all.length <= before.length || all.endsWith(UNFINISHED)) return "";
    this.#read(all.slice(before.length));
    if (before !== "") this.#windowStart = this.#readIds; // a window whose text is empty says nothing about its spaces
    this.#readIds = this.#ids.length;
    return this.#passOn(false);
  }

  /** Ends the stream. Returns the text that was held back. */
  end(): string {
    if (this.#stopped) return "";
    const { before, all } = this.#decodeWindow();
    this.#read(all.slice(before.length));
    this.#readIds = this.#ids.length;
    return this.#passOn(true);
  }

  #decodeWindow(): { before: string; all: string } {
    const window = this.#ids.slice(this.#windowStart);
    const decode = (ids: readonly number[]): string => this.#tokenizer.decode(ids, { skipSpecial: true });
    return { before: decode(window.slice(0, this.#readIds - this.#windowStart)), all: decode(window) };
  }

  #read(text: string): void {
    this.#held += text;
  }

  /** Passes on the text up to a stop text, or up to what may be the beginning of one. */
  #passOn(isEnd: boolean): string {
    const stopAt = firstOf(this.#stops, this.#held);
    if (stopAt !== undefined) this.#stopped = true;
    const certain =
      stopAt ?? (isEnd ? this.#held.length : this.#held.length - openStop(this.#stops, this.#held));
    const text = this.#held.slice(0, certain);
    this.#held = this.#held.slice(certain);
    return text;
  }
}

/** Returns where the first of the stop texts begins. */
function firstOf(stops: readonly string[], text: string): number | undefined {
  const found = stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
  return found.length > 0 ? Math.min(...found) : undefined;
}

/** Returns the length of the longest end of a text that a stop text begins with. */
function openStop(stops: readonly string[], text: string): number {
  const longest = Math.max(0, ...stops.map((stop) => stop.length - 1));
  for (let length = Math.min(longest, text.length); length > 0; length--) {
    const end = text.slice(-length);
    if (stops.some((stop) => stop.startsWith(end))) return length;
  }
  return 0;
}
