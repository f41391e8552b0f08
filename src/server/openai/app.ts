/**
 * The routes of OpenAI's API that a served model needs. The engine does the work; this turns its events and
 * refusals into HTTP.
 */
import { randomInt } from "node:crypto";
import { type Context, Hono } from "hono";
import type { Accepted, Engine, Refusal, ServeEvent, ServeRequest } from "../../serving/types.ts";
import { readJson } from "../http/body.ts";
import { realPathBelow } from "../http/paths.ts";
import { ApiError, type ErrorStatus, errorAnswer, textOf } from "./apiError.ts";
import { type ChatRequest, readChatRequest } from "./chatRequest.ts";
import {
  type CompletionHead,
  chunk,
  completion,
  type FinishReason,
  newCompletion,
  usageChunk,
  usageOf,
} from "./completion.ts";
import { type PictureRules, picturesOf } from "./pictures.ts";
import { eventStream } from "./sse.ts";

export interface OpenAiOptions {
  engine: Engine;
  pictures: PictureRules;
  /** Real path of the folder that adapters may be loaded from at run time; undefined: none are. */
  adapterFolder: string | undefined;
  /** Most tokens of an answer, if the request does not say; undefined: the engine's default. */
  maxTokens: number | undefined;
  /** Milliseconds since 1970. */
  now?: () => number;
}

/** Room for several large pictures in base64. */
const BODY = { mostBytes: 64 * 2 ** 20 };

/** Returns the routes below /v1, and /health. They check neither keys nor hosts. */
export function openAiApp(options: OpenAiOptions): Hono {
  const { engine, now = Date.now } = options;
  const startedAtMs = now();
  const model = (id: string) => modelObject(id, startedAtMs);
  const app = new Hono();
  app.get("/health", (context) => context.json({ status: "ok", ...engine.room() }));
  app.get("/v1/models", (context) =>
    context.json({ object: "list", data: engine.models().map(({ name }) => model(name)) }),
  );
  app.get("/v1/models/:name{.+}", (context) => {
    const name = context.req.param("name");
    if (!engine.models().some((known) => known.name === name)) throw unknownModel(name, engine);
    return context.json(model(name));
  });
  app.post("/v1/chat/completions", async (context) => {
    const request = readChatRequest(await readJson(context, BODY));
    return answerChat(request, context.req.raw.signal, options);
  });
  app.post("/v1/load_lora_adapter", async (context) => {
    const { name, path } = adapterRequest(await readJson(context), options);
    if (path === undefined) throw new ApiError(400, "lora_path is missing.", { param: "lora_path" });
    refuseIf(await engine.addAdapter(name, adapterPath(path, options)));
    return context.json({ loaded: name });
  });
  app.post("/v1/unload_lora_adapter", async (context) => {
    const { name } = adapterRequest(await readJson(context), options);
    refuseIf(await engine.dropAdapter(name));
    return context.json({ unloaded: name });
  });
  app.notFound(noSuchRoute);
  app.onError((thrown) => failed(thrown));
  return app;
}

/** Answers a request for a route that is not there. */
export function noSuchRoute({ req: { method, path } }: Context): Response {
  return failed(new ApiError(404, `There is no ${method} ${path}.`));
}

/** Answers with an error. */
export function failed(thrown: unknown): Response {
  const { status, body } = errorAnswer(thrown);
  const headers: Record<string, string> = status === 429 ? { "Retry-After": "1" } : {};
  return Response.json(body, { status, headers });
}

function modelObject(id: string, startedAtMs: number) {
  return { id, object: "model", created: Math.floor(startedAtMs / 1000), owned_by: "lorafit" };
}

/** Queues the request, and answers whole or as a stream. */
async function answerChat(
  request: ChatRequest,
  left: AbortSignal,
  options: OpenAiOptions,
): Promise<Response> {
  const { engine, pictures, now = Date.now } = options;
  if (!engine.models().some(({ name }) => name === request.model)) throw unknownModel(request.model, engine);
  const images = await picturesOf(request.pictureUrls, pictures, left);
  const leaving = new AbortController();
  left.addEventListener("abort", () => leaving.abort(), { once: true });
  const { accepted, refusal } = await engine.submit(serveRequest(request, images, options), leaving.signal);
  if (refusal) throw refused(refusal);
  const head = newCompletion(request.model, now());
  if (!request.isStreamed) return Response.json(await wholeAnswer(head, accepted));
  return eventStream(chunksOf(head, accepted, request.withUsage), () => leaving.abort());
}

function serveRequest(request: ChatRequest, images: string[], options: OpenAiOptions): ServeRequest {
  return {
    prompt: { turns: request.turns, images },
    model: request.model,
    limits: request.limits,
    maxNewTokens: request.maxTokens ?? options.maxTokens,
    temperature: request.temperature,
    topP: request.topP,
    repetitionPenalty: request.repetitionPenalty,
    seed: request.seed ?? randomInt(2 ** 31),
    stop: request.stop,
  };
}

async function wholeAnswer(head: CompletionHead, accepted: Accepted) {
  let content = "";
  for await (const event of accepted.events) {
    if (event.kind === "piece") content += event.text;
    else if (event.kind === "failed") throw failureOf(event);
    else return completion(head, content, finishOf(event), usageOf(event.usage));
  }
  throw new Error("an answer had no end");
}

async function* chunksOf(
  head: CompletionHead,
  accepted: Accepted,
  withUsage: boolean,
): AsyncGenerator<object | undefined> {
  yield chunk(head, { role: "assistant", content: "" }, null, withUsage);
  for await (const event of accepted.events) {
    if (event.kind === "piece") {
      if (event.text !== "") yield chunk(head, { content: event.text }, null, withUsage);
      continue;
    }
    if (event.kind === "failed") {
      yield errorAnswer(failureOf(event)).body;
      yield undefined;
      return;
    }
    yield chunk(head, {}, finishOf(event), withUsage);
    if (withUsage) yield usageChunk(head, usageOf(event.usage));
  }
}

/** A picture that can't be decoded is the client's fault, anything else the server's. */
function failureOf({ by, error }: ServeEvent & { kind: "failed" }): ApiError {
  return new ApiError(by === "request" ? 400 : 503, textOf(error));
}

function finishOf({ finishReason }: ServeEvent & { kind: "end" }): FinishReason {
  return finishReason === "length" ? "length" : "stop"; // nobody reads an answer that was aborted
}

/** The status of each refusal, and OpenAI's word for it. */
const REFUSALS: Record<Refusal["kind"], { status: ErrorStatus; code?: string }> = {
  neverFits: { status: 400, code: "context_length_exceeded" },
  unknownModel: { status: 404, code: "model_not_found" },
  invalid: { status: 400 },
  overloaded: { status: 429, code: "rate_limit_exceeded" },
  noRoom: { status: 429, code: "rate_limit_exceeded" },
  closed: { status: 503 },
};

function refused({ kind, error }: Refusal): ApiError {
  const { status, code } = REFUSALS[kind];
  return new ApiError(status, textOf(error), { code });
}

function refuseIf({ refusal }: { refusal?: Refusal | undefined }): void {
  if (refusal) throw refused(refusal);
}

function unknownModel(name: string, engine: Engine): ApiError {
  const known = engine.models().map((model) => model.name);
  const message = `There is no model "${name.slice(0, 100)}". Served are: ${known.join(", ")}.`;
  return new ApiError(404, message, { param: "model", code: "model_not_found" });
}

/** Reads a request to load or drop an adapter, in the form of vLLM's routes of these names. */
function adapterRequest(
  body: unknown,
  { adapterFolder }: OpenAiOptions,
): { name: string; path: string | undefined } {
  if (adapterFolder === undefined)
    throw new ApiError(403, "This server changes no adapters at run time. Start it with --adapter-folder.");
  const { lora_name: name, lora_path: path } = (body ?? {}) as Record<string, unknown>;
  if (typeof name !== "string" || name === "")
    throw new ApiError(400, "lora_name is missing.", { param: "lora_name" });
  if (path !== undefined && typeof path !== "string")
    throw new ApiError(400, "lora_path is not a text.", { param: "lora_path" });
  return { name, path };
}

/** Returns the real path of an adapter below the folder that adapters may come from. */
function adapterPath(path: string, { adapterFolder = "" }: OpenAiOptions): string {
  const real = realPathBelow(adapterFolder, path);
  if (real !== undefined && real !== adapterFolder) return real;
  throw new ApiError(400, `"${path.slice(0, 100)}" is not a folder below the server's adapter folder.`, {
    param: "lora_path",
  });
}
