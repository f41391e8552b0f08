/** The page's routes, asked within the process. */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import sharp from "sharp";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { RunStore } from "../../runs/runStore.ts";
import { MEMORY_FILE } from "../../train/folder/stepMemory.ts";
import type { AnswerRecord, LogPage, RunList } from "./api.ts";
import { uiApp } from "./app.ts";
import { ROUTES } from "./routes.ts";

const folder = mkdtempSync(join(tmpdir(), "ui-app-"));
const outside = mkdtempSync(join(tmpdir(), "ui-app-data-"));
const stop = new AbortController();
const notes: string[] = [];
const access = { isLoopback: true, hosts: [], cookie: "lorafit_1", askForToken: "", token: "secret" };
const context = {
  ...{ folder, signal: stop.signal, runs: new RunStore(folder, { keeps: false }) },
  note: (text: string) => notes.push(text),
};
const { app } = uiApp(context, () => access, { page: join(folder, "no page"), routes: ROUTES });
const ask = (path: string, init: RequestInit = {}): Response | Promise<Response> =>
  app.request(`http://127.0.0.1${path}`, {
    ...init,
    headers: { Host: "127.0.0.1", Authorization: "Bearer secret", ...init.headers },
  });

let id: string;
let dataUri: string;
beforeAll(async () => {
  mkdirSync(join(folder, "run"));
  const picture = sharp({ create: { width: 500, height: 300, channels: 3, background: "teal" } });
  await picture.png().toFile(join(outside, "page.png"));
  await picture.png().toFile(join(outside, "other.png"));
  dataUri = `data:image/png;base64,${(await picture.png().toBuffer()).toString("base64")}`;
  writeFileSync(join(outside, "evil.png"), "<script>alert(1)</script>");
  execFileSync("mkfifo", [join(outside, "pipe.png"), join(folder, "run/pipe.png")]);
  const answer = { step: 1, sample: { file: "d.json", index: 0 }, isMissing: false, exactMatch: 0 };
  const named = ["page.png", "evil.png", "gone.png", "pipe.png"].map((name) => join(outside, name));
  const pictures = [named[0], dataUri, ...named.slice(1)];
  writeFileSync(join(folder, "run/answers.jsonl"), `${JSON.stringify({ ...answer, pictures })}\n`);
  writeFileSync(join(folder, "run/steps.jsonl"), '{"step":1,"loss":1}\n');
  id = ((await (await ask("/api/runs")).json()) as RunList).runs[0]!.id;
});
afterAll(() => {
  stop.abort();
  for (const place of [folder, outside]) rmSync(place, { recursive: true, force: true });
});

describe("a picture", () => {
  const picture = (path: string, more: Record<string, string> = {}) =>
    ask(`/api/picture?${new URLSearchParams({ run: id, path, ...more })}`);
  const sizeOf = async (answer: Response) => {
    const { format, width } = await sharp(Buffer.from(await answer.arrayBuffer())).metadata();
    return { format, width };
  };

  it("that an answer names is shown, scaled, or with its tiles", async () => {
    const { records } = (await (await ask(`/api/runs/${id}/answers`)).json()) as LogPage<AnswerRecord>;
    const [page, embedded] = records[0]!.pictures;
    expect(embedded).toMatch(/^embedded:[\da-f]{32}$/);
    for (const path of [page!, embedded!]) {
      expect(await sizeOf(await picture(path, { width: "100" }))).toEqual({ format: "jpeg", width: 100 });
      const tiles = await picture(path, { view: "tiles" });
      expect(tiles.headers.get("content-type")).toBe("image/png");
      expect((await sizeOf(tiles)).width).toBeGreaterThan(500);
    }
  });

  it("that no answer names is not, though it lies beside", async () => {
    for (const path of [
      join(outside, "other.png"),
      "embedded:00000000000000000000000000000000",
      "/etc/passwd",
    ])
      expect((await picture(path)).status).toBe(404);
  });

  it("that is none, or is gone, is an error in words, and its bytes stay here", async () => {
    for (const name of ["evil.png", "gone.png"]) {
      const answer = await picture(join(outside, name));
      expect(answer.status).toBe(422);
      expect(answer.headers.get("content-type")).toContain("application/json");
      expect(await answer.text()).not.toContain("alert");
    }
  });
});

it("a pipe or a device in a picture's place keeps no other picture waiting", async () => {
  for (const path of [join(outside, "pipe.png"), "pipe.png", "."]) {
    const answer = await ask(`/api/picture?${new URLSearchParams({ run: id, path })}`);
    expect(answer.status).toBe(422);
    expect(await answer.json()).toMatchObject({ error: expect.stringContaining("is not a picture") });
  }
});

it("a memory profile that claims billions of moments is none", async () => {
  const profile = { phases: [{ name: "forward", moments: 4e9 }], device: {} };
  const memory = { version: 1, step: 1, limits: {}, besideBytes: 0, measured: profile, planned: profile };
  writeFileSync(join(folder, "run", MEMORY_FILE), JSON.stringify(memory));
  expect((await ask(`/api/runs/${id}/memory`)).status).toBe(404);
});

it("whatever is asked, no request is a defect", { timeout: 120_000 }, async () => {
  const text = fc.oneof(
    fc.string(),
    fc.constantFrom("..", "%00", "1_ffffffffffffffff", "-1", "1e9", "0", "\u202e", "<b>"),
  );
  const query = fc.dictionary(
    fc.constantFrom("from", "points", "run", "path", "view", "width", "list"),
    text,
  );
  const routes = [
    "/api/runs",
    "/api/picture",
    ...["", "/steps", "/evals", "/answers", "/events", "/memory"].map((end) => `/api/runs/ID${end}`),
  ];
  const known = fc.constant(undefined);
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(...routes),
      fc.oneof(known, text),
      query,
      async (route, other, asked) => {
        const path = route.replace("ID", encodeURIComponent(other ?? id));
        const answer = await ask(
          `${path}?${new URLSearchParams({ ...(other === undefined && { run: id }), ...asked })}`,
        );
        expect([200, 400, 404, 422]).toContain(answer.status);
        await answer.arrayBuffer();
      },
    ),
    { numRuns: 400 },
  );
  const bodies = fc.oneof(
    fc.string(),
    fc.json(),
    fc.constant(`${"[".repeat(100_000)}`),
    fc.constant("x".repeat(2 ** 21)),
  );
  await fc.assert(
    fc.asyncProperty(
      fc.constantFrom(`/api/runs/${id}/stop`, "/api/runs/none/stop"),
      bodies,
      async (path, body) => {
        const answer = await ask(path, {
          method: "POST",
          body,
          headers: { "Content-Type": "application/json" },
        });
        expect([200, 400, 404, 413]).toContain(answer.status);
      },
    ),
  );
  expect(notes).toEqual([]);
});

it("a stream that is asked for nonsense gives nothing, and ends with its client", async () => {
  for (const query of ["runs=nowhere:x", "runs=%00:..,::,", `runs=${id}:not.a.cursor`]) {
    const answer = await ask(`/api/live?${query}`);
    expect(answer.status).toBe(200);
    const reader = answer.body!.getReader();
    expect(new TextDecoder().decode((await reader.read()).value)).toContain("retry");
    await reader.cancel();
  }
  const many = Array.from({ length: 65 }, (_, at) => `r${at}:`).join();
  expect((await ask(`/api/live?runs=${many}`)).status).toBe(400);
});

it("a page that is not built says how to build it, and unknown addresses are 404 in JSON", async () => {
  const answer = await ask("/");
  expect(answer.status).toBe(404);
  expect(await answer.json()).toMatchObject({ fix: expect.stringContaining("make build") });
  for (const path of ["/api/nothing", "/api/data/nothing", "/api/plan/nothing/more"]) {
    const { status, headers } = await ask(path);
    expect(status, path).toBe(404);
    expect(headers.get("content-type")).toContain("application/json");
  }
});
