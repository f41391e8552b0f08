import fc from "fast-check";
import { Hono } from "hono";
import { describe, expect, it } from "vitest";
import { type Access, guard, isLoopbackHost, newToken } from "./access.ts";
import { readJson } from "./body.ts";
import { safeHeaders } from "./headers.ts";
import { errorAnswer } from "./httpError.ts";

const TOKEN = newToken();
const ACCESS: Access = {
  ...{ token: TOKEN, isLoopback: true, hosts: [], cookie: "lorafit_4157" },
  askForToken: "Open the address that was printed.",
};
const HOST = "127.0.0.1:4157";

function serverOf(access: Partial<Access> = {}): Hono {
  const app = new Hono();
  app.onError((thrown, context) => errorAnswer(thrown, context, () => {}));
  app.use(safeHeaders);
  app.use(guard(() => ({ ...ACCESS, ...access })));
  app.get("/", (context) => context.text("page"));
  app.get("/api/secret", (context) => context.json({ secret: true }));
  app.post("/api/change", async (context) =>
    context.json({ got: await readJson(context, { mostBytes: 1000 }) }),
  );
  return app;
}

const app = serverOf();
const bearer = { Authorization: `Bearer ${TOKEN}` };
const cookie = { Cookie: `lorafit_4157=${TOKEN}` };
const status = async (path: string, headers: Record<string, string>, init: RequestInit = {}, of = app) =>
  (await of.request(`http://${HOST}${path}`, { ...init, headers: { Host: HOST, ...headers } })).status;
const post = { method: "POST", body: "{}" };
const json = { "Content-Type": "application/json" };

describe("a request", () => {
  it("with the token, as bearer or as cookie, is answered", async () => {
    expect(await status("/api/secret", bearer)).toBe(200);
    expect(await status("/api/secret", cookie)).toBe(200);
  });

  it("without it, or with any other text, is not", async () => {
    expect(await status("/api/secret", {})).toBe(401);
    await fc.assert(
      fc.asyncProperty(
        fc.string({ unit: "binary-ascii" }).filter((text) => /^[\x20-\x7e]*$/.test(text)),
        async (text) => {
          fc.pre(text.trim() !== TOKEN);
          expect(await status("/api/secret", { Authorization: `Bearer ${text}` })).toBe(401);
          expect(await status("/api/secret", { Cookie: `lorafit_4157=${encodeURIComponent(text)}` })).toBe(
            401,
          );
          expect(await status(`/api/secret?token=${encodeURIComponent(text)}`, {})).toBe(401);
        },
      ),
    );
  });

  it("with the token of another port's cookie is not", async () => {
    expect(await status("/api/secret", { Cookie: `lorafit_9999=${TOKEN}` })).toBe(401);
  });

  it("with the token in its address gets a cookie that scripts and other sites can't use, and goes on without it", async () => {
    const answer = await app.request(`http://${HOST}/?token=${TOKEN}`, { headers: { Host: HOST } });
    expect(answer.status).toBe(200);
    expect(answer.headers.get("set-cookie")).toMatch(
      /^lorafit_4157=[\w-]+; Path=\/; HttpOnly; SameSite=Strict$/,
    );
    const text = await answer.text();
    expect(text).toContain('content="0; url=/"');
    expect(text).not.toContain(TOKEN);
  });
});

describe("a page of another site", () => {
  it.each([
    "evil.example",
    "evil.example:4157",
    "127.0.0.1.evil.example",
    "localhost.evil.example:4157",
    "127.0.0.1:4157@evil.example",
    "",
    "0x7f.1",
    "10.0.0.1:4157",
  ])("that is reached under the name %j gets nothing, even with the token", async (host) => {
    expect(await status("/api/secret", { ...bearer, Host: host })).toBe(403);
  });

  it.each([
    "http://evil.example",
    "null",
    "http://127.0.0.1:9999",
    "https://127.0.0.1:4157.evil.example",
    "file://",
  ])("of origin %s can't read or change anything, though the browser sends the cookie", async (origin) => {
    expect(await status("/api/secret", { ...cookie, Origin: origin })).toBe(403);
    expect(await status("/api/change", { ...cookie, ...json, Origin: origin }, post)).toBe(403);
  });

  it("can link to the page, and embed or load nothing", async () => {
    const cross = { ...cookie, "Sec-Fetch-Site": "cross-site" };
    expect(await status("/", { ...cross, "Sec-Fetch-Mode": "navigate" })).toBe(200);
    expect(await status("/", { ...cross, "Sec-Fetch-Mode": "no-cors" })).toBe(403);
    expect(await status("/api/secret", { ...cross, "Sec-Fetch-Mode": "navigate" })).toBe(403);
    expect(await status("/api/change", { ...cross, "Sec-Fetch-Mode": "navigate" }, post)).toBe(403);
  });

  it("can't post a form: a change needs the own origin or a bearer token, and JSON", async () => {
    expect(await status("/api/change", { ...cookie, ...json }, post)).toBe(401);
    expect(await status("/api/change", { ...cookie, ...json, Origin: `http://${HOST}` }, post)).toBe(200);
    expect(await status("/api/change", { ...bearer, ...json }, post)).toBe(200);
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
      expect(await status("/api/change", { ...bearer, "Content-Type": type }, post)).toBe(415);
  });
});

describe("a server", () => {
  it("answers under any port of this machine, as ssh -L has it", async () => {
    for (const host of ["localhost:9000", "127.0.0.1:1", "[::1]:80", "LOCALHOST"])
      expect(await status("/api/secret", { ...bearer, Host: host })).toBe(200);
  });

  it("that listens on the network answers to addresses and its own name, and to no other", async () => {
    const open = serverOf({ isLoopback: false, hosts: ["trainer"] });
    for (const host of ["192.168.1.5:4157", "[fe80::1]:4157", "trainer:4157", "Trainer"])
      expect(await status("/api/secret", { ...bearer, Host: host }, {}, open)).toBe(200);
    expect(await status("/api/secret", { ...bearer, Host: "trainer.evil.example" }, {}, open)).toBe(403);
  });

  it("sends headers that keep scripts, frames and guesses out, with errors too", async () => {
    for (const path of ["/", "/api/secret", "/nowhere", "/?token=wrong"]) {
      const { headers } = await app.request(`http://${HOST}${path}`, { headers: { Host: HOST, ...bearer } });
      const policy = headers.get("content-security-policy")!;
      expect(policy).toContain("default-src 'none'");
      expect(policy).toContain("frame-ancestors 'none'");
      expect(policy).not.toContain("unsafe");
      expect(headers.get("x-content-type-options")).toBe("nosniff");
      expect(headers.get("referrer-policy")).toBe("no-referrer");
      expect(headers.get("access-control-allow-origin")).toBeNull();
    }
  });

  it("refuses bodies that are large or malformed, and no other", async () => {
    const send = (body: string | Uint8Array) =>
      status("/api/change", { ...bearer, ...json }, { method: "POST", body });
    expect(await send(`"${"x".repeat(998)}"`)).toBe(200);
    expect(await send(`"${"x".repeat(999)}"`)).toBe(413);
    expect(await send(Uint8Array.of(0x22, 0xff, 0xfe, 0x22))).toBe(400);
    await fc.assert(
      fc.asyncProperty(fc.uint8Array({ maxLength: 900 }), async (bytes) => {
        expect([200, 400]).toContain(await send(bytes));
      }),
    );
  });

  it("reads no more of a body than it may, if its length is not stated", async () => {
    let sent = 0;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        sent += 100;
        controller.enqueue(new Uint8Array(100));
        if (sent > 1_000_000) controller.close();
      },
    });
    const init = { method: "POST", body, duplex: "half" } as RequestInit;
    expect(await status("/api/change", { ...bearer, ...json }, init)).toBe(413);
    expect(sent).toBeLessThan(10_000);
  });
});

it("only this machine's own addresses count as loopback", () => {
  for (const host of ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST"])
    expect(isLoopbackHost(host)).toBe(true);
  for (const host of [
    "0.0.0.0",
    "::",
    "192.168.0.1",
    "127.0.0.1.nip.io",
    "localhost.example",
    "127.1.evil",
    "",
  ])
    expect(isLoopbackHost(host)).toBe(false);
});
