/** Answers requests for a loaded model and its adapters. */

import type { ImageCompat } from "../data/pictures/imageCompat.ts";
import { foreignAmong, type LimitOption } from "../data/pictures/limits.ts";
import type { PictureLimit } from "../data/pictures/pictureLimit.ts";
import type { PictureLoader } from "../data/stream/batches.ts";
import { TextStream } from "../data/text/textStream.ts";
import type { Tokenizer } from "../data/text/tokenizer.ts";
import { formatBytes, formatCount, messageOf, UserError } from "../errors.ts";
import { pictureFormOf, positionsOf, seenBefore } from "../models/families.ts";
import type { ModelConfig } from "../models/family.ts";
import { GREEDY } from "../models/generation/sampling.ts";
import type { PromptPositions } from "../models/positions.ts";
import type { Model } from "../models/weights.ts";
import { type LayerSource, layerSource } from "../step/layerWeights.ts";
import { stopIdsOf } from "../train/planning/answerPlan.ts";
import { AdapterTooLarge, disposeAdapter, loadAdapter, type ServedAdapter } from "./adapters.ts";
import { FeaturePool } from "./memory/featurePool.ts";
import { KvPool, KvSlots } from "./memory/kvPool.ts";
import { featureRows, type ServingShape, type ServingWay } from "./planServing.ts";
import { checkRequest } from "./requests/checkRequest.ts";
import { type Prompt, preparePrompt } from "./requests/prompt.ts";
import { type NamedAdapter, Sequence } from "./requests/sequence.ts";
import { Scheduler } from "./scheduler.ts";
import type { Changed, Engine, Refusal, Room, ServedModel, ServeRequest, Submitted } from "./types.ts";

export interface EngineParts {
  model: Model;
  tokenizer: Tokenizer | undefined;
  loader: PictureLoader;
  imageCompat: ImageCompat;
  /** Limit of a picture's tokens, if the request gives none. */
  pictureLimit: number;
  way: ServingWay;
  shape: ServingShape;
  plannedPeakBytes: number;
  /** Adapters that are loaded, by name, with their folders. */
  adapters: readonly { name: string; folder: string; served: ServedAdapter }[];
  /** Bytes that all adapters together may take. */
  adapterBytes: number;
  baseName: string;
  maxWaiting: number;
  /** Called when the engine has closed, after its own parts were freed. */
  onClosed: () => Promise<void> | void;
}

/** Tokens of an answer, if a request does not say. */
const USUAL_NEW_TOKENS = 512;

/** Pictures whose numbers are remembered: more than any prefix cache holds. */
const MOST_CONTENTS = 2 ** 16;

/** Makes an engine of parts that it owns from now on, the model among them. */
export function createEngine(parts: EngineParts): Engine {
  return new ServingEngine(parts);
}

class ServingEngine implements Engine {
  readonly #parts: EngineParts;
  readonly #scheduler: Scheduler;
  readonly #source: LayerSource;
  readonly #pool: KvPool;
  readonly #features: FeaturePool;
  readonly #adapters = new Map<string, NamedAdapter>();
  /** Bytes of adapters, those that are being dropped among them. */
  #adapterBytes = 0;
  /** Numbers of pictures' contents, for the keys of their rows: those of the newest pictures. */
  readonly #contents = new Map<string, number>();
  #countedContents = 0;
  #closing: Promise<void> | undefined;

  constructor(parts: EngineParts) {
    const { model, way, shape, loader } = parts;
    this.#parts = parts;
    this.#source = layerSource(model, way.aheadLayers);
    this.#pool = new KvPool(model, shape.kvTokens);
    this.#features = new FeaturePool(model, featureRows(shape));
    this.#scheduler = new Scheduler({
      parts: { model, source: this.#source, pool: this.#pool },
      slots: new KvSlots(shape.kvTokens),
      features: this.#features,
      loader,
      maxSequences: shape.maxSequences,
      chunkTokens: way.chunkTokens,
      visionBatchTiles: way.visionBatchTiles,
    });
    for (const adapter of parts.adapters) this.#name(adapter);
  }

  models(): ServedModel[] {
    const adapters = [...this.#adapters.values()].map(({ name, folder }) => ({ name, adapter: folder }));
    return [{ name: this.#parts.baseName }, ...adapters];
  }

  async addAdapter(name: string, folder: string): Promise<Changed> {
    if (this.#closing) return { refusal: closed() };
    if (name === this.#parts.baseName || this.#adapters.has(name)) {
      const error = new UserError(`There is a model called ${name} already.`, {
        fix: "Drop it first, or choose another name.",
      });
      return { refusal: { kind: "invalid", error } };
    }
    const room = this.#parts.adapterBytes - this.#adapterBytes;
    try {
      this.#name({ name, folder, served: loadAdapter(this.#parts.model, folder, room) });
      return {};
    } catch (thrown) {
      if (thrown instanceof AdapterTooLarge) return { refusal: noRoom(folder, thrown.bytes, room) };
      return { refusal: invalid(thrown) };
    }
  }

  async dropAdapter(name: string): Promise<Changed> {
    const adapter = this.#adapters.get(name);
    if (!adapter) return { refusal: this.#unknown(name) };
    this.#adapters.delete(name);
    await new Promise<void>((resolve) => {
      adapter.onUnused = resolve;
      if (adapter.users === 0) resolve();
    });
    this.#scheduler.forget(adapter);
    this.#adapterBytes -= adapter.served.bytes;
    disposeAdapter(adapter.served);
    return {};
  }

  async submit(request: ServeRequest, signal?: AbortSignal): Promise<Submitted> {
    const early = this.#refusal(request);
    if (early) return { refusal: early };
    const { tokenizer, model, imageCompat, pictureLimit } = this.#parts;
    let prompt: Prompt;
    let sequence: Sequence;
    try {
      checkRequest(request);
      const form = pictureFormOf(model.config);
      const options = { tokenizer, vocab: model.config.vocab, form, imageCompat };
      const limit = limitIn(request, form.limit) ?? pictureLimit;
      prompt = await preparePrompt(request.prompt, limit, options);
      const late = this.#refusal(request) ?? this.#neverFits(request, prompt);
      if (late) return { refusal: late };
      sequence = this.#sequenceOf(request, prompt);
    } catch (thrown) {
      return { refusal: invalid(thrown) };
    }
    const abort = (): void => {
      sequence.aborted = true;
      this.#scheduler.wake();
    };
    if (signal?.aborted) abort();
    signal?.addEventListener("abort", abort, { once: true });
    sequence.onEnd = () => signal?.removeEventListener("abort", abort);
    this.#scheduler.add(sequence);
    return { accepted: { promptTokens: sequence.promptTokens, events: sequence.events } };
  }

  room(): Room {
    const { shape, way, plannedPeakBytes } = this.#parts;
    const { reservedTokens, cachedTokens, running, waiting } = this.#scheduler;
    const { kvTokens, maxTokens, maxSequences } = shape;
    const planned = { kvTokens, maxTokens, maxSequences, weights: way.name, plannedPeakBytes };
    return { ...planned, reservedTokens, cachedTokens, running, waiting };
  }

  close({ finish = false }: { finish?: boolean } = {}): Promise<void> {
    if (!finish) this.#scheduler.failAll(closed().error);
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<void> {
    await this.#scheduler.idle();
    this.#scheduler[Symbol.dispose]();
    this.#source[Symbol.dispose]();
    this.#pool[Symbol.dispose]();
    this.#features[Symbol.dispose]();
    for (const { served } of this.#adapters.values()) disposeAdapter(served);
    this.#adapters.clear();
    await this.#parts.onClosed();
  }

  #name({ name, folder, served }: Pick<NamedAdapter, "name" | "folder" | "served">): void {
    this.#adapterBytes += served.bytes;
    this.#adapters.set(name, { name, folder, served, users: 0, onUnused: undefined });
  }

  /** Returns why a request can't be accepted, as far as that depends on the moment and not on its prompt. */
  #refusal({ model }: ServeRequest): Refusal | undefined {
    if (this.#closing) return closed();
    const isKnown = model === undefined || model === this.#parts.baseName || this.#adapters.has(model);
    if (!isKnown) return this.#unknown(model);
    const { waiting } = this.#scheduler;
    if (waiting < this.#parts.maxWaiting) return undefined;
    const error = new UserError(`${formatCount(waiting)} requests are waiting already.`, {
      fix: "Send the request again later.",
    });
    return { kind: "overloaded", waiting, error };
  }

  #unknown(model: string): Refusal {
    const known = this.models().map(({ name }) => name);
    const error = new UserError(`There is no model called ${model}.`, {
      fix: `Choose one of ${known.join(", ")}.`,
    });
    return { kind: "unknownModel", model, known, error };
  }

  #neverFits(request: ServeRequest, { ids }: Prompt): Refusal | undefined {
    const { maxTokens: limitTokens } = this.#parts.shape;
    const tokens = ids.length + (request.maxNewTokens ?? 1);
    if (tokens <= limitTokens) return undefined;
    const asked =
      request.maxNewTokens === undefined
        ? `${formatCount(ids.length)} tokens`
        : `${formatCount(ids.length)} tokens and asks for ${formatCount(request.maxNewTokens)} more`;
    const error = new UserError(
      `The prompt has ${asked}; this server has room for ${formatCount(limitTokens)} with the answer.`,
      { fix: "Ask for a shorter answer, send fewer or smaller pictures, or shorten the text." },
    );
    return { kind: "neverFits", tokens, limitTokens, error };
  }

  #sequenceOf(request: ServeRequest, prompt: Prompt): Sequence {
    const { tokenizer, model, shape } = this.#parts;
    const { temperature, topP, repetitionPenalty, seed } = { ...GREEDY, ...definedOf(request) };
    const adapter = request.model === undefined ? undefined : this.#adapters.get(request.model);
    const left = shape.maxTokens - prompt.ids.length;
    const sequence = new Sequence(
      {
        prompt,
        promptKeys: this.#keysOf(prompt),
        adapter,
        sampling: { temperature, topP, repetitionPenalty, seed },
        maxNewTokens: request.maxNewTokens ?? Math.min(USUAL_NEW_TOKENS, left),
        stopIds: request.ignoreEos ? [] : stopIdsOf(tokenizer, model.config),
        stream: tokenizer && new TextStream(tokenizer, request.stop),
        positions: promptPositions(prompt, model.config),
        seenIds: seenBefore(
          model.config,
          prompt.ids,
          prompt.pictures.map(({ rows }) => rows),
        ),
      },
      () => {
        sequence.aborted = true;
        this.#scheduler.wake();
      },
    );
    if (adapter) adapter.users++;
    return sequence;
  }

  /** Returns the keys of a prompt's rows: ids of text, numbers below zero for the content of pictures. */
  #keysOf({ ids, pictures }: Prompt): Int32Array {
    const keys = ids.slice();
    for (const { digest, rows } of pictures) {
      keys.fill(-1 - this.#numberOf(digest), rows.start, rows.end);
    }
    return keys;
  }

  /** Returns the number of a content. One that was forgotten gets a new one: its rows are computed again. */
  #numberOf(digest: string): number {
    const number = this.#contents.get(digest) ?? this.#countedContents++;
    this.#contents.delete(digest);
    this.#contents.set(digest, number);
    if (this.#contents.size > MOST_CONTENTS) this.#contents.delete(this.#contents.keys().next().value!);
    return number;
  }
}

/** Returns the sampling settings that a request gives. */
function definedOf(request: ServeRequest): Partial<ServeRequest> {
  return Object.fromEntries(Object.entries(request).filter(([, value]) => value !== undefined));
}

/** Returns the request's own limit. Throws UserError for a limit of other pictures than the model's. */
function limitIn({ limits = {} }: ServeRequest, limit: PictureLimit): number | undefined {
  const foreign = foreignAmong(limits, limit);
  const own = limits[limit.option as LimitOption];
  if (!foreign) return own;
  throw new UserError(`${foreign.option} does not limit the pictures of this model.`, {
    fix: own === undefined ? `Send ${limit.option} instead.` : `Leave it out; ${limit.option} limits them.`,
  });
}

function closed(): Refusal {
  return {
    kind: "closed",
    error: new UserError("The server is shutting down.", { fix: "Send the request to another server." }),
  };
}

function invalid(thrown: unknown): Refusal {
  if (thrown instanceof UserError) return { kind: "invalid", error: thrown };
  throw thrown instanceof Error ? thrown : new Error(messageOf(thrown));
}

function noRoom(folder: string, bytes: number, roomBytes: number): Refusal {
  const error = new UserError(
    `${folder} needs ${formatBytes(bytes)}; ${formatBytes(Math.max(0, roomBytes))} are left for adapters.`,
    { fix: "Drop another adapter, or start the server with room for more adapters." },
  );
  return { kind: "noRoom", error };
}

function promptPositions({ ids, pictures }: Prompt, config: ModelConfig): PromptPositions {
  const tokens = ids.length;
  const imageSlices = pictures.map(({ rows }, image) => ({ ...rows, image }));
  const images = pictures.map(({ layout }) => layout);
  return { prompt: positionsOf(config, { sampleTokens: [tokens], imageSlices, images }), tokens };
}
