/**
 * The interface of the engine that serves: what it is opened with, what a request is, and what comes back.
 * Refusals and ends are values, so that a server can turn each into a status of its own.
 */
import type { ImageCompat } from "../data/pictures/imageCompat.ts";
import type { LimitValues } from "../data/pictures/limits.ts";
import type { Turn } from "../data/samples/sample.ts";
import type { UserError } from "../errors.ts";
import type { PictureOptions } from "../models/families.ts";
import type { Sampling } from "../models/generation/sampling.ts";
import type { ComputeOptions } from "../train/machine/compute.ts";

/** How the base model's weights are held: on the device, or streamed from the host layer by layer. */
export const WEIGHT_CHOICES = ["auto", "resident", "streamed"] as const;
export type WeightChoice = (typeof WEIGHT_CHOICES)[number];

/** ComputeOptions: device, dtype, threads, memory limits and precisions, as for `generate`. */
export interface EngineOptions extends ComputeOptions {
  /** A checkpoint folder, or the name of a downloaded repository. */
  model: string;
  /** Adapter folders by the name that requests choose them by. */
  adapters?: Readonly<Record<string, string>> | undefined;
  /** Name of the model without an adapter; default: "base". */
  baseName?: string | undefined;
  /** Default "auto": resident if that leaves room for a request of the usual length, else streamed. */
  weights?: WeightChoice | undefined;
  /** Sequences that are answered at the same time; default 32. More requests wait. */
  maxSequences?: number | undefined;
  /** Tokens of the longest request with its answer; default: the model's positions, or what fits. */
  maxTokens?: number | undefined;
  /** Adapters that there is room for at a time; default: the given ones and another of their size. */
  maxAdapters?: number | undefined;
  /** Requests that may wait before further ones are refused as overloaded; default 1,024. */
  maxWaiting?: number | undefined;
  imageCompat?: ImageCompat | undefined;
  /**
   * Limit of a picture's tokens if a request gives none, and fewest pixels of a picture, by their options.
   * Default: the model's own.
   */
  pictures?: PictureOptions | undefined;
  /** Called with each remark about the machine or the checkpoint, for the user to read. */
  onNotice?: ((text: string) => void) | undefined;
}

/** A dialogue with pictures, or a prompt in token ids. */
export type ServePrompt =
  | {
      /** IMAGE_PLACEHOLDER in a turn's text stands for the next picture. */
      turns: readonly Turn[];
      /** Absolute paths or data URIs, in the order of their places. */
      images?: readonly string[] | undefined;
    }
  | {
      /** IMAGE_SLOT stands for the next picture. */
      inputIds: Int32Array;
      images?: readonly string[] | undefined;
    };

/** Sampling: temperature, topP, repetitionPenalty and seed; default: greedy. */
export interface ServeRequest extends Partial<Sampling> {
  prompt: ServePrompt;
  /** A name of models(); default: the base model. */
  model?: string | undefined;
  /** Limit of a picture's tokens, by the model's own option: { hd_num: 16 }. Default: the engine's. */
  limits?: LimitValues | undefined;
  /** Most tokens of the answer; default: 512, or what is left of the longest request. */
  maxNewTokens?: number | undefined;
  /** Texts that end the answer and are not part of it. */
  stop?: readonly string[] | undefined;
  /** Whether ids that end an answer are ignored; default false. */
  ignoreEos?: boolean | undefined;
}

/** Token counts of a request. cachedTokens: those of the prompt that were taken from the prefix cache. */
export interface Usage {
  promptTokens: number;
  completionTokens: number;
  cachedTokens: number;
}

/**
 * Events of an accepted request: pieces of the answer, then one end. A piece's text may be empty while a
 * character or a stop text is unfinished; without a tokenizer, all texts are empty. "aborted": the signal
 * came. "failed" by the request: its picture can't be decoded. "failed" by the engine: the model's output is
 * not a number, or the engine was closed.
 */
export type ServeEvent =
  | { kind: "piece"; text: string; ids: number[] }
  | { kind: "end"; finishReason: "stop" | "length" | "aborted"; usage: Usage }
  | { kind: "failed"; by: "request" | "engine"; error: UserError; usage: Usage };

/**
 * Why a request is not accepted, or an adapter not added ("noRoom": for lack of memory). `error` has the
 * message and its fix.
 */
export type Refusal =
  | { kind: "neverFits"; tokens: number; limitTokens: number; error: UserError }
  | { kind: "unknownModel"; model: string; known: string[]; error: UserError }
  | { kind: "invalid"; error: UserError }
  | { kind: "overloaded"; waiting: number; error: UserError }
  | { kind: "noRoom"; error: UserError }
  | { kind: "closed"; error: UserError };

/** An accepted request. Leaving the loop over `events` early aborts it. */
export interface Accepted {
  promptTokens: number;
  events: AsyncIterable<ServeEvent>;
}

export type Submitted =
  | { accepted: Accepted; refusal?: undefined }
  | { accepted?: undefined; refusal: Refusal };

/** Result of adding or dropping an adapter. */
export type Changed = { refusal?: undefined } | { refusal: Refusal };

export interface ServedModel {
  name: string;
  /** Folder of the adapter; undefined for the base model. */
  adapter?: string | undefined;
}

/** The room that the plan leaves for requests, and the part in use. */
export interface Room {
  /** Tokens of all sequences and of the prefix cache together. */
  kvTokens: number;
  /** Tokens that running sequences have reserved. */
  reservedTokens: number;
  /** Tokens that finished sequences have left in the prefix cache. */
  cachedTokens: number;
  /** Tokens of the longest request with its answer. */
  maxTokens: number;
  maxSequences: number;
  running: number;
  waiting: number;
  weights: "resident" | "streamed";
  /** Bytes on the device as planned, with everything in use; undefined without a limit to plan for. */
  plannedPeakBytes: number;
}

export interface Engine {
  /** The base model first, then adapters in the order they were added. */
  models(): ServedModel[];
  /** Loads an adapter; requests may name it as soon as the promise resolves. */
  addAdapter(name: string, folder: string): Promise<Changed>;
  /** Takes the name away at once, and frees the adapter when its running requests have ended. */
  dropAdapter(name: string): Promise<Changed>;
  /**
   * Checks a request and queues it. The promise resolves when the pictures' sizes are known; the answer then
   * comes by `events`.
   */
  submit(request: ServeRequest, signal?: AbortSignal): Promise<Submitted>;
  room(): Room;
  /** Refuses further requests. finish: lets accepted ones end; otherwise they fail. Then frees everything. */
  close(options?: { finish?: boolean }): Promise<void>;
}
