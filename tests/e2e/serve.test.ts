/** `lorafit serve` as a process of its own: load, clients that leave, malformed bodies, safety, shutdown. */
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { lorafit, records } from "./lorafit.ts";
import { type Served, serve } from "./served.ts";

/** Bodies that the fuzzer sends; tests/real sends more. */
const MUTATIONS = Number(process.env.SERVE_MUTATIONS ?? 1000);

const folder = mkdtempSync(join(tmpdir(), "serve-"));
const model = join(folder, "tiny");
const TINY = ["--layers", "2", "--vision-hidden", "32", "--vision-layers", "1", "--vision-ffn", "128"];
let server: Served;
beforeAll(async () => {
  lorafit(["tiny", "--output", model, ...TINY]);
  server = await serve(["--model", model, "--memory", "48MiB", "--max-sequences", "8"]);
});
afterAll(async () => {
  expect(await server.stop()).toBe(0);
  rmSync(folder, { recursive: true });
});

const TOKENS = 12;
const QUESTIONS = ["What is 2 + 2?", "Name a colour.", "Hello!", "Write a number: "];
const body = (content: string, more: object = {}) => ({
  ...{ model: "base", messages: [{ role: "user", content }], max_tokens: TOKENS, temperature: 0 },
  ...more,
});

function post(text: string, init: RequestInit = {}): Promise<Response> {
  const headers = { "Content-Type": "application/json" };
  return fetch(`${server.url}/v1/chat/completions`, { method: "POST", headers, body: text, ...init });
}

async function answerTo(content: string): Promise<string> {
  const answer = (await (await post(JSON.stringify(body(content)))).json()) as {
    choices: { message: { content: string } }[];
  };
  return answer.choices[0]!.message.content;
}

async function health(): Promise<{ running: number; waiting: number }> {
  return (await (await fetch(`${server.url}/health`)).json()) as { running: number; waiting: number };
}

describe("many clients", () => {
  it("64 at once get the greedy answers of generate, within the memory limit", async () => {
    const expected = QUESTIONS.map((prompt) => {
      const flags = ["--model", model, "--prompt", prompt, "--max-new-tokens", String(TOKENS), "--json"];
      return (records(lorafit(["generate", ...flags])) as { text: string }[])[0]!.text;
    });
    const asked = Array.from({ length: 64 }, (_, index) => index % QUESTIONS.length);
    const answers = await Promise.all(asked.map((index) => answerTo(QUESTIONS[index]!)));
    expect(answers).toEqual(asked.map((index) => expected[index]));
  });

  it("that leave free their places", async () => {
    const leaving = new AbortController();
    const long = JSON.stringify(body("Tell me a long story.", { max_tokens: 200, stream: true }));
    const streams = await Promise.all(
      Array.from({ length: 12 }, async () => {
        const { body: stream } = await post(long, { signal: leaving.signal });
        return stream!.getReader().read();
      }),
    );
    expect(streams.every(({ done }) => !done)).toBe(true);
    leaving.abort();
    await expect.poll(async () => (await health()).running, { timeout: 60_000 }).toBe(0);
    expect(await answerTo(QUESTIONS[0]!)).not.toBe("");
  });
});

it("answers any malformed body in the API's form, and goes on", async () => {
  const valid = JSON.stringify(body("Hi", { max_tokens: 1, stop: ["a"], seed: 1 }));
  const mutated = fc
    .array(fc.tuple(fc.nat(valid.length), fc.nat(12), fc.string({ maxLength: 6 })), {
      minLength: 1,
      maxLength: 3,
    })
    .map((edits) =>
      edits.reduce((text, [at, cut, put]) => text.slice(0, at) + put + text.slice(at + cut), valid),
    );
  for (const texts of chunksOf(fc.sample(mutated, { numRuns: MUTATIONS, seed: 1 }), 32)) {
    const answers = await Promise.all(texts.map((text) => post(text)));
    for (const answer of answers) {
      const told = (await answer.json()) as { error?: { message: string }; object?: string };
      if (answer.ok) expect(told.object).toBe("chat.completion");
      else expect([answer.status, typeof told.error?.message]).toEqual([answer.status, "string"]);
      expect(answer.status).toBeLessThan(500);
    }
  }
  expect(await answerTo(QUESTIONS[0]!)).not.toBe("");
});

it("refuses what can never fit, with the tokens and the limit", async () => {
  const answer = await post(JSON.stringify(body("Hi", { max_tokens: 10_000_000 })));
  expect(answer.status).toBe(400);
  const { error } = (await answer.json()) as { error: { code: string; message: string } };
  expect(error.code).toBe("context_length_exceeded");
  expect(error.message).toMatch(/10,000,\d{3}/);
});

describe("other pages of the user's browser", () => {
  /** Sends a request with headers that fetch does not let a program set. */
  function statusWith(headers: Record<string, string>): Promise<number | undefined> {
    return new Promise((resolve, reject) => {
      const sent = request(`${server.url}/v1/models`, { headers }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      sent.on("error", reject).end();
    });
  }

  it("reach nothing, by a name of their own or from their own site", async () => {
    expect(await statusWith({})).toBe(200);
    expect(await statusWith({ Host: "evil.example" })).toBe(403);
    expect(await statusWith({ Origin: "https://evil.example" })).toBe(403);
    expect(await statusWith({ "Sec-Fetch-Site": "cross-site" })).toBe(403);
  });
});

it("wants a key on an address that others reach, and asks each request for it", async () => {
  const open = lorafit(["serve", "--model", model, "--host", "0.0.0.0"], { env: { LORAFIT_API_KEY: "" } });
  expect(open.code).toBe(2);
  expect(open.stderr).toContain("--api-key");
  const keyed = await serve(["--model", model, "--api-key", "secret"]);
  const models = (headers: Record<string, string>) => fetch(`${keyed.url}/v1/models`, { headers });
  expect((await models({})).status).toBe(401);
  expect((await models({ Authorization: "Bearer wrong" })).status).toBe(401);
  expect((await models({ Authorization: "Bearer secret" })).status).toBe(200);
  expect(await keyed.stop()).toBe(0);
});

function chunksOf<T>(items: readonly T[], size: number): T[][] {
  return Array.from({ length: Math.ceil(items.length / size) }, (_, index) =>
    items.slice(index * size, (index + 1) * size),
  );
}

it("a server that a page started ends with the page, even if that was killed", async () => {
  const started = await serve(["--model", model], { LORAFIT_STOP_WITH_STDIN: "1" });
  expect(await started.abandon()).toBe(0);
});
