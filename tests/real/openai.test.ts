/** OpenAI's own clients, of npm and of PyPI, against a running server. */
import { execFile } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import OpenAI, { BadRequestError, NotFoundError } from "openai";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { lorafit, records } from "../e2e/lorafit.ts";
import { type Served, serve } from "../e2e/served.ts";
import { makeWorkshop } from "./tinyRuns.ts";

const PYTHON = fileURLToPath(new URL(".venv/bin/python", import.meta.url));
const SCRIPT = fileURLToPath(new URL("openai_client.py", import.meta.url));
const QUESTION = "What is the total?";

const workshop = makeWorkshop({ pages: 4, evaluated: 1 });
let server: Served;
let client: OpenAI;
let adapter: string;
let picture: string;

beforeAll(async () => {
  adapter = join(workshop.train("invoices", ["--max-steps", "4"]), "adapter");
  const pages = join(workshop.folder, "pages");
  picture = join(
    pages,
    (readdirSync(pages, { recursive: true }) as string[]).find((name) => name.endsWith(".png"))!,
  );
  const flags = ["--adapter", `invoices=${adapter}`, "--hd-num", "1", "--memory", "64MiB"];
  server = await serve(["--model", workshop.model, ...flags]);
  client = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "none", maxRetries: 0 });
});
afterAll(async () => {
  await server?.stop();
});

/** Returns the greedy answer of `lorafit generate`. */
function generated(...flags: string[]): string {
  const words = ["generate", "--model", workshop.model, "--prompt", QUESTION, "--image", picture];
  const settings = ["--hd-num", "1", "--max-new-tokens", "24", "--json"];
  const [{ text }] = records(lorafit([...words, ...settings, ...flags])) as [{ text: string }];
  return text;
}

function request(model: string) {
  const url = `data:image/png;base64,${readFileSync(picture).toString("base64")}`;
  const content = [
    { type: "image_url" as const, image_url: { url } },
    { type: "text" as const, text: QUESTION },
  ];
  return { model, messages: [{ role: "user" as const, content }], max_tokens: 24, temperature: 0 };
}

describe("the client of npm", () => {
  it("lists the models", async () => {
    const { data } = await client.models.list();
    expect(data.map(({ id }) => id)).toEqual(["base", "invoices"]);
  });

  it.each(["base", "invoices"])(
    "gets the greedy answer of generate from %s, whole and streamed",
    async (model) => {
      const expected = generated(...(model === "base" ? [] : ["--adapter", adapter]));
      const whole = await client.chat.completions.create(request(model));
      expect(whole.choices[0]!.message.content).toBe(expected);
      expect(whole.usage!.total_tokens).toBe(whole.usage!.prompt_tokens + whole.usage!.completion_tokens);
      const stream = await client.chat.completions.create({
        ...request(model),
        stream: true,
        stream_options: { include_usage: true },
      });
      let text = "";
      let usage: unknown;
      for await (const chunk of stream) {
        text += chunk.choices[0]?.delta.content ?? "";
        usage = chunk.usage ?? usage;
      }
      expect(text).toBe(expected);
      expect(usage).toMatchObject({ completion_tokens: whole.usage!.completion_tokens });
    },
  );

  it("gets errors of its own classes", async () => {
    const create = client.chat.completions.create.bind(client.chat.completions);
    await expect(create(request("gpt-4o"))).rejects.toBeInstanceOf(NotFoundError);
    await expect(create({ ...request("base"), max_tokens: 10_000_000 })).rejects.toMatchObject({
      constructor: BadRequestError,
      code: "context_length_exceeded",
    });
  });

  it("leaves a stream early, and the server answers on", async () => {
    const stream = await client.chat.completions.create({ ...request("base"), stream: true });
    for await (const _ of stream) break;
    const { data } = await client.models.list();
    expect(data).toHaveLength(2);
  });
});

it("the client of PyPI gets the same answer, whole and streamed", async () => {
  const { stdout } = await promisify(execFile)(PYTHON, [SCRIPT, `${server.url}/v1`, picture, QUESTION]);
  const expected = generated();
  expect(JSON.parse(stdout)).toEqual({ models: ["base", "invoices"], whole: expected, streamed: expected });
});

it("ends at SIGTERM, with exit code 0", async () => {
  const other = await serve(["--model", workshop.model]);
  expect(await other.stop()).toBe(0);
});
