import { mkdirSync, mkdtempSync, realpathSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { beforeEach, describe, expect, it } from "vitest";
import { UserError } from "../../errors.ts";
import type { Engine, Refusal, ServeEvent, ServeRequest } from "../../serving/types.ts";
import { openAiApp } from "./app.ts";

const adapterFolder = realpathSync(mkdtempSync(join(tmpdir(), "adapters-")));
mkdirSync(join(adapterFolder, "invoices"));

const USAGE = { promptTokens: 7, completionTokens: 2, cachedTokens: 3 };
const PIECES: ServeEvent[] = [
  { kind: "piece", text: "Ta", ids: [4] },
  { kind: "piece", text: "", ids: [5] },
  { kind: "piece", text: "tal", ids: [6] },
];
const END: ServeEvent = { kind: "end", finishReason: "stop", usage: USAGE };

let submitted: ServeRequest[];
let signals: (AbortSignal | undefined)[];
let events: ServeEvent[];
let refusal: Refusal | undefined;
let loaded: string[];
beforeEach(() => {
  [submitted, signals, loaded] = [[], [], []];
  events = [...PIECES, END];
  refusal = undefined;
});

/** Answers every request with the same events. */
const engine: Engine = {
  models: () => [{ name: "base" }, { name: "invoices", adapter: "/a" }],
  addAdapter: async (name, folder) => {
    loaded.push(`${name} ${folder}`);
    return {};
  },
  dropAdapter: async (name) => {
    loaded.push(`drop ${name}`);
    return {};
  },
  submit: async (request, signal) => {
    submitted.push(request);
    signals.push(signal);
    if (refusal) return { refusal };
    const given = events;
    async function* all() {
      for (const event of given) yield event;
      if (given.length === 0) await new Promise((resolve) => signal?.addEventListener("abort", resolve));
    }
    return { accepted: { promptTokens: 7, events: all() } };
  },
  room: () => ({
    kvTokens: 100,
    reservedTokens: 0,
    cachedTokens: 0,
    maxTokens: 50,
    maxSequences: 2,
    running: 0,
    waiting: 0,
    weights: "resident",
    plannedPeakBytes: 1,
  }),
  close: async () => {},
};
const pictures = { folder: undefined, allowRemote: false };
const app = openAiApp({ engine, pictures, adapterFolder, maxTokens: 64, now: () => 5000 });

const HELLO = { model: "invoices", messages: [{ role: "user", content: "Hello" }] };
const post = (path: string, body: unknown, init: RequestInit = {}) =>
  app.request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: typeof body === "string" ? body : JSON.stringify(body),
    ...init,
  });
const chat = (body: unknown) => post("/v1/chat/completions", body);

async function errorOf(response: Response): Promise<Record<string, unknown>> {
  const { error } = (await response.json()) as { error: Record<string, unknown> };
  expect(Object.keys(error).toSorted()).toEqual(["code", "message", "param", "type"]);
  return { status: response.status, ...error };
}

describe("a chat completion", () => {
  it("is one object with the whole text, the finish reason and the token counts", async () => {
    const answer = await (await chat(HELLO)).json();
    expect(answer).toEqual({
      id: expect.stringMatching(/^chatcmpl-[0-9a-f]{32}$/),
      object: "chat.completion",
      created: 5,
      model: "invoices",
      choices: [
        {
          index: 0,
          message: { role: "assistant", content: "Tatal", refusal: null },
          logprobs: null,
          finish_reason: "stop",
        },
      ],
      usage: {
        prompt_tokens: 7,
        completion_tokens: 2,
        total_tokens: 9,
        prompt_tokens_details: { cached_tokens: 3 },
      },
    });
    expect(submitted[0]).toMatchObject({
      model: "invoices",
      maxNewTokens: 64,
      prompt: { turns: [{ role: "user", text: "Hello" }], images: [] },
    });
  });

  it("streams chunks, then the usage, then [DONE]", async () => {
    const response = await chat({ ...HELLO, stream: true, stream_options: { include_usage: true } });
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8");
    const lines = (await response.text()).split("\n\n");
    expect(lines.slice(-2)).toEqual(["data: [DONE]", ""]);
    const chunks = lines.slice(0, -2).map((line) => JSON.parse(line.replace(/^data: /, "")));
    expect(chunks.map(({ choices }) => choices[0]?.delta)).toEqual([
      { role: "assistant", content: "" },
      { content: "Ta" },
      { content: "tal" },
      {},
      undefined,
    ]);
    expect(chunks.map(({ choices }) => choices[0]?.finish_reason)).toEqual([
      null,
      null,
      null,
      "stop",
      undefined,
    ]);
    expect(chunks.map(({ usage }) => usage?.total_tokens ?? null)).toEqual([null, null, null, null, 9]);
    expect(new Set(chunks.map(({ id }) => id)).size).toBe(1);
  });

  it("aborts the request if the client leaves a stream", async () => {
    events = [];
    const response = await chat({ ...HELLO, stream: true });
    const reader = response.body!.getReader();
    await reader.read();
    expect(signals[0]!.aborted).toBe(false);
    await reader.cancel();
    expect(signals[0]!.aborted).toBe(true);
  });

  it("aborts the request if the client leaves before the answer", async () => {
    events = [];
    const leaving = new AbortController();
    const waiting = post("/v1/chat/completions", HELLO, { signal: leaving.signal });
    await expect.poll(() => signals.length).toBe(1);
    leaving.abort();
    expect(signals[0]!.aborted).toBe(true);
    await waiting;
  });

  it("states a failure within a stream as an event, and does not say that it is done", async () => {
    const error = new UserError("The server is shutting down.");
    events = [PIECES[0]!, { kind: "failed", by: "engine", error, usage: USAGE }];
    const text = await (await chat({ ...HELLO, stream: true })).text();
    expect(text).toContain('"message":"The server is shutting down."');
    expect(text).toContain('"type":"server_error"');
    expect(text).not.toContain("[DONE]");
    expect(await errorOf(await chat(HELLO))).toMatchObject({ status: 503, message: error.message });
  });

  it("blames the request for a picture that can't be decoded, whole or within a stream", async () => {
    const error = new UserError("The picture is damaged.", { fix: "Send another picture." });
    events = [{ kind: "failed", by: "request", error, usage: USAGE }];
    const expected = {
      type: "invalid_request_error",
      message: "The picture is damaged. Send another picture.",
    };
    expect(await errorOf(await chat(HELLO))).toMatchObject({ status: 400, ...expected });
    const [, second = ""] = (await (await chat({ ...HELLO, stream: true })).text()).split("\n\n");
    expect(JSON.parse(second.replace(/^data: /, ""))).toMatchObject({ error: expected });
  });

  it.each<[Refusal, object]>([
    [
      { kind: "neverFits", tokens: 9, limitTokens: 5, error: new UserError("It has 9 tokens; 5 fit.") },
      { status: 400, code: "context_length_exceeded", message: "It has 9 tokens; 5 fit." },
    ],
    [{ kind: "overloaded", waiting: 3, error: new UserError("Busy.") }, { status: 429 }],
    [{ kind: "closed", error: new UserError("Closed.") }, { status: 503 }],
    [
      { kind: "invalid", error: new UserError("Wrong.", { fix: "Right." }) },
      { status: 400, message: "Wrong. Right." },
    ],
  ])("answers a refusal with its status", async (given, expected) => {
    refusal = given;
    expect(await errorOf(await chat({ ...HELLO, stream: true }))).toMatchObject(expected);
  });

  it("passes on the limit of pictures, whichever the model has", async () => {
    await post("/v1/chat/completions", { ...HELLO, max_pixels: 200_704 });
    expect(submitted.at(-1)!.limits).toEqual({ max_pixels: 200_704 });
    expect((await post("/v1/chat/completions", { ...HELLO, max_tiles: 0 })).status).toBe(400);
  });

  it("leaves the length of an answer to the engine, if neither server nor request sets it", async () => {
    const open = openAiApp({ engine, pictures, adapterFolder, maxTokens: undefined });
    const headers = { "Content-Type": "application/json" };
    await open.request("/v1/chat/completions", { method: "POST", headers, body: JSON.stringify(HELLO) });
    expect(submitted[0]!.maxNewTokens).toBeUndefined();
  });

  it("names the models that are served, for one that is not", async () => {
    expect(await errorOf(await chat({ ...HELLO, model: "gpt" }))).toMatchObject({
      status: 404,
      code: "model_not_found",
      message: 'There is no model "gpt". Served are: base, invoices.',
    });
    expect(submitted).toEqual([]);
  });

  it("refuses bodies that are not JSON, or not sent as JSON", async () => {
    expect(await errorOf(await chat("{"))).toMatchObject({ status: 400 });
    const headers = { "Content-Type": "text/plain" };
    expect(await errorOf(await post("/v1/chat/completions", HELLO, { headers }))).toMatchObject({
      status: 415,
    });
  });

  it("answers any text in the API's form", async () => {
    await fc.assert(
      fc.asyncProperty(fc.oneof(fc.json(), fc.string()), async (body) => {
        const { status } = await errorOf(await chat(body));
        expect(status).toBe(400);
      }),
    );
  });
});

describe("models", () => {
  it("are the base model and its adapters", async () => {
    const { data } = (await (await app.request("/v1/models")).json()) as { data: unknown[] };
    expect(data).toEqual([
      { id: "base", object: "model", created: 5, owned_by: "lorafit" },
      { id: "invoices", object: "model", created: 5, owned_by: "lorafit" },
    ]);
    expect(await (await app.request("/v1/models/invoices")).json()).toMatchObject({ id: "invoices" });
    expect(await errorOf(await app.request("/v1/models/org/gpt"))).toMatchObject({ status: 404 });
  });

  it("come and go at run time, from below one folder", async () => {
    await post("/v1/load_lora_adapter", { lora_name: "new", lora_path: "invoices" });
    await post("/v1/unload_lora_adapter", { lora_name: "new" });
    expect(loaded).toEqual([`new ${join(adapterFolder, "invoices")}`, "drop new"]);
    for (const path of ["..", "/etc", "missing", ".", "invoices\0"])
      expect(
        await errorOf(await post("/v1/load_lora_adapter", { lora_name: "new", lora_path: path })),
      ).toMatchObject({ status: 400, param: "lora_path" });
    expect(loaded).toHaveLength(2);
  });

  it("stay as they are without such a folder", async () => {
    const fixed = openAiApp({ engine, pictures, adapterFolder: undefined, maxTokens: 1 });
    const init = {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ lora_name: "base" }),
    };
    expect(await errorOf(await fixed.request("/v1/unload_lora_adapter", init))).toMatchObject({
      status: 403,
    });
  });
});

it("any other route is a 404 in the API's form", async () => {
  expect(await errorOf(await app.request("/v1/embeddings"))).toMatchObject({ status: 404 });
});
