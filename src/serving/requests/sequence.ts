/** An accepted request on its way: what it asks for, what it holds, and how far it is. */

import { randomAt } from "../../data/stream/random.ts";
import type { TextStream } from "../../data/text/textStream.ts";
import type { UserError } from "../../errors.ts";
import { chooseToken, type Sampling } from "../../models/generation/sampling.ts";
import type { PromptPositions } from "../../models/positions.ts";
import { type Rows, rowCount } from "../../nn/rows.ts";
import type { ServedAdapter } from "../adapters.ts";
import type { Features } from "../memory/featurePool.ts";
import { type Chain, chainTokens, type Link } from "../memory/kvPool.ts";
import type { RowKeys } from "../memory/prefixCache.ts";
import type { ServeEvent, Usage } from "../types.ts";
import { EventQueue } from "./eventQueue.ts";
import type { Prompt, PromptPicture } from "./prompt.ts";

/** An adapter that has a name, or had one until its last request ends. */
export interface NamedAdapter {
  name: string;
  folder: string;
  served: ServedAdapter;
  /** Accepted requests that have not ended. */
  users: number;
  /** Called when the last of them ends, once the name is gone. */
  onUnused: (() => void) | undefined;
}

export interface SequenceOptions {
  prompt: Prompt;
  /** (prompt tokens) keys of the prompt's rows. */
  promptKeys: RowKeys;
  adapter: NamedAdapter | undefined;
  sampling: Sampling;
  maxNewTokens: number;
  stopIds: readonly number[];
  stream: TextStream | undefined;
  positions: PromptPositions;
  /** Ids that the repetition penalty counts before the answer. */
  seenIds: Iterable<number>;
}

export class Sequence {
  readonly prompt: Prompt;
  readonly adapter: NamedAdapter | undefined;
  readonly events: EventQueue<ServeEvent>;
  readonly promptKeys: RowKeys;
  readonly positions: PromptPositions;
  readonly #options: SequenceOptions;
  /** Ids that the repetition penalty counts. */
  readonly #seen: Set<number>;
  readonly #answer: number[] = [];

  /** Segments at the beginning that other sequences use too, and then its own. */
  shared: Link[] = [];
  own: Link[] = [];
  /** Tokens whose keys and values are in the pool. */
  position = 0;
  /** Tokens of the prompt that were found in the cache. */
  cachedTokens = 0;
  /** Features by the picture's place in the prompt, once there is room for all that are needed. */
  features: Map<number, Features> | undefined;
  /** The state of the prefix cache that the prompt was last looked up in. */
  seenVersion = -1;
  state: "waiting" | "running" | "ended" = "waiting";
  aborted = false;
  /** Called once when the sequence has ended. */
  onEnd: (() => void) | undefined;

  constructor(options: SequenceOptions, onLeave: () => void) {
    this.#options = options;
    this.prompt = options.prompt;
    this.promptKeys = options.promptKeys;
    this.adapter = options.adapter;
    this.#seen = new Set(options.seenIds);
    this.positions = options.positions;
    this.events = new EventQueue(onLeave);
  }

  get promptTokens(): number {
    return this.prompt.ids.length;
  }

  /** Tokens that need room in the pool: all but the last of the answer. */
  get totalTokens(): number {
    return this.promptTokens + this.#options.maxNewTokens - 1;
  }

  get chain(): Chain {
    return [...this.shared, ...this.own];
  }

  get sharedTokens(): number {
    return chainTokens(this.shared);
  }

  /** Whether the prompt is in the pool, so that answers come row by row. */
  get isAnswering(): boolean {
    return this.position >= this.promptTokens;
  }

  get usage(): Usage {
    const { promptTokens, cachedTokens } = this;
    return { promptTokens, completionTokens: this.#answer.length, cachedTokens };
  }

  /** Returns the ids of rows that are to be computed next. */
  nextIds(mostRows: number): Int32Array {
    if (this.isAnswering) return Int32Array.of(this.#answer.at(-1)!);
    return this.prompt.ids.subarray(this.position, Math.min(this.promptTokens, this.position + mostRows));
  }

  /** Returns keys of all tokens in the pool. */
  keysSoFar(): RowKeys {
    const keys = new Int32Array(this.position);
    keys.set(this.promptKeys.subarray(0, this.position));
    keys.set(
      this.#answer.slice(0, Math.max(0, this.position - this.promptTokens)),
      Math.min(this.position, this.promptTokens),
    );
    return keys;
  }

  /** Returns pictures that have rows from the position on, with their place in the prompt. */
  picturesLeft(): { picture: PromptPicture; index: number }[] {
    return this.prompt.pictures
      .map((picture, index) => ({ picture, index }))
      .filter(({ picture }) => picture.rows.end > this.position);
  }

  /** Takes the next token from logits, which it changes. Returns whether the answer ended. */
  take(logits: Float32Array): "goes on" | "stop" | "length" {
    const { sampling, stopIds, stream, maxNewTokens } = this.#options;
    const uniform = randomAt(sampling.seed, 0, this.#answer.length);
    const id = chooseToken(logits, this.#seen, sampling, uniform);
    if (stopIds.includes(id)) return "stop";
    this.#seen.add(id);
    this.#answer.push(id);
    const text = stream?.add(id) ?? "";
    this.events.push({ kind: "piece", text, ids: [id] });
    if (stream?.stopped) return "stop";
    return this.#answer.length >= maxNewTokens ? "length" : "goes on";
  }

  /** Sends the text that was held back, and the end. */
  finish(finishReason: "stop" | "length" | "aborted"): void {
    const text = this.#options.stream?.end() ?? "";
    if (text !== "") this.events.push({ kind: "piece", text, ids: [] });
    this.events.end({ kind: "end", finishReason, usage: this.usage });
  }

  fail(by: "request" | "engine", error: UserError): void {
    this.events.end({ kind: "failed", by, error, usage: this.usage });
  }
}

/** Returns the part of a picture that lies in some rows of a prompt, counted from its own first row. */
export function partOf(picture: Rows, rows: Rows): Rows | undefined {
  const part = {
    start: Math.max(picture.start, rows.start) - picture.start,
    end: Math.min(picture.end, rows.end) - picture.start,
  };
  return rowCount(part) > 0 ? part : undefined;
}
