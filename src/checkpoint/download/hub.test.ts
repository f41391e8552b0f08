import { createHash } from "node:crypto";
import { existsSync, mkdtempSync, readFileSync, readlinkSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { COMMIT, type HubServer, startHub } from "../../../tests/helpers/hubServer.ts";
import { UserError } from "../../errors.ts";
import { resolveModel } from "../folder.ts";
import type { DownloadProgress } from "./download.ts";
import { type PullOptions, pull } from "./hub.ts";

const disk = vi.hoisted((): { freeBytes?: number } => ({}));
vi.mock("node:fs/promises", async (original) => {
  const real = await original<typeof import("node:fs/promises")>();
  const statfs = async (path: string) =>
    disk.freeBytes === undefined ? real.statfs(path) : { bavail: disk.freeBytes, bsize: 1 };
  return { ...real, statfs };
});

const root = mkdtempSync(join(tmpdir(), "hub-"));
const environment = { ...process.env };
const big = Buffer.from(Array.from({ length: 300_000 }, (_, at) => at % 251));
const small = Buffer.from('{"hidden_size": 8}');

let hub: HubServer;
let endpoint: string;

beforeEach(async () => {
  hub = await startHub({
    "config.json": small,
    "model.safetensors": big,
    "pytorch_model.bin": Buffer.from("no"),
  });
  endpoint = hub.endpoint;
  process.env.HF_HOME = mkdtempSync(join(root, "home-"));
  for (const name of ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_ENDPOINT", "HF_TOKEN"]) {
    delete process.env[name];
  }
});
afterEach(async () => {
  process.env = { ...environment };
  delete disk.freeBytes;
  await hub.close();
});
afterAll(() => rmSync(root, { recursive: true }));

const download = (options: PullOptions = {}): Promise<string> =>
  pull("org/name", { endpoint, retryMs: 1, ...options });

async function faultOf(running: Promise<unknown>): Promise<UserError> {
  const thrown = await running.then(
    () => new Error("it went well"),
    (cause: unknown) => cause,
  );
  if (thrown instanceof UserError) return thrown;
  throw thrown;
}

const blobOf = (data: Buffer): string =>
  join(process.env.HF_HOME!, "hub/models--org--name/blobs", createHash("sha256").update(data).digest("hex"));

describe("pull", () => {
  it("lays the cache out as Hugging Face's own tools do, so that org/name is found", async () => {
    const folder = await download();
    const repository = join(process.env.HF_HOME!, "hub/models--org--name");
    expect(folder).toBe(join(repository, "snapshots", COMMIT));
    expect(readFileSync(join(repository, "refs/main"), "utf8")).toBe(COMMIT);
    expect(readFileSync(join(folder, "model.safetensors")).equals(big)).toBe(true);
    expect(readlinkSync(join(folder, "model.safetensors"))).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]{64}$/);
    expect(readlinkSync(join(folder, "config.json"))).toMatch(/^\.\.\/\.\.\/blobs\/[0-9a-f]{40}$/);
    expect(resolveModel("org/name")).toBe(folder);
  });

  it("takes weights in one form, and nothing twice", async () => {
    const folder = await download();
    expect(existsSync(join(folder, "pytorch_model.bin"))).toBe(false);
    expect(hub.sent.length).toBe(2);
    await download();
    expect(hub.sent.length).toBe(2);
  });

  it("takes pickles where there is nothing else, and files in folders", async () => {
    hub.files = { "pytorch_model.bin": big, "deep/er/notes.txt": small, empty: Buffer.of() };
    const folder = await download();
    expect(readFileSync(join(folder, "pytorch_model.bin")).equals(big)).toBe(true);
    expect(readFileSync(join(folder, "deep/er/notes.txt")).equals(small)).toBe(true);
    expect(readFileSync(join(folder, "empty")).length).toBe(0);
  });

  it("tells of progress, which only grows and ends at the whole", async () => {
    const told: DownloadProgress[] = [];
    await download({ onProgress: (progress) => told.push(progress) });
    const done = told.map(({ doneBytes }) => doneBytes);
    const total = big.length + small.length;
    expect(done).toEqual(done.toSorted((left, right) => left - right));
    expect(done.at(-1)).toBe(total);
    expect(new Set(told.map(({ totalBytes }) => totalBytes))).toEqual(new Set([total]));
    expect(new Set(told.map(({ file }) => file))).toEqual(new Set(["config.json", "model.safetensors"]));
  });

  it("goes on where a connection broke off, again and again", async () => {
    hub.files = { "model.safetensors": big };
    hub.cuts = [100_000, 50_000, 1];
    const folder = await download();
    expect(readFileSync(join(folder, "model.safetensors")).equals(big)).toBe(true);
    const starts = hub.sent.map((sent) => Number(/ (\d+)-/.exec(sent)![1]));
    expect(starts).toEqual([0, 100_000, 150_000, 150_001]);
  });

  it("goes on in a later run where it gave up, and says so", async () => {
    hub.files = { "model.safetensors": big };
    hub.cuts = [200_000, 0, 0, 0, 0, 0];
    const fault = await faultOf(download());
    expect(fault.message).toContain(
      "The download of model.safetensors broke off after 195.3 KiB of 293.0 KiB",
    );
    expect(fault.fix).toContain("continues where it stopped");
    expect(existsSync(join(process.env.HF_HOME!, "hub/models--org--name/refs/main"))).toBe(false);
    hub.cuts = [];
    hub.sent = [];
    const folder = await download();
    expect(hub.sent).toEqual([`model.safetensors 200000-${big.length}`]);
    expect(readFileSync(join(folder, "model.safetensors")).equals(big)).toBe(true);
  });

  it("asks for room for what has yet to come alone, and says how much that is", async () => {
    hub.files = { "model.safetensors": big };
    hub.cuts = [200_000, 0, 0, 0, 0, 0];
    await faultOf(download());
    hub.cuts = [];
    disk.freeBytes = 99_999;
    expect((await faultOf(download())).message).toContain("97.7 KiB are missing, and 97.7 KiB are free");
    disk.freeBytes = 100_000;
    await download();
    disk.freeBytes = 0;
    await download(); // all is there
  });

  it("begins anew where the server ignores ranges", async () => {
    hub.files = { "model.safetensors": big };
    hub.cuts = [100_000];
    hub.ignoresRanges = true;
    const folder = await download();
    expect(readFileSync(join(folder, "model.safetensors")).equals(big)).toBe(true);
  });

  it("refuses a file that is not the one of the listing, and fetches it anew the next time", async () => {
    hub.files = { "model.safetensors": big };
    hub.garbled = { "model.safetensors": Buffer.alloc(big.length) };
    const fault = await faultOf(download());
    expect(fault.message).toContain("model.safetensors arrived damaged");
    expect(existsSync(blobOf(big))).toBe(false);
    hub.garbled = {};
    expect(existsSync(join(await download(), "model.safetensors"))).toBe(true);
  });

  it("writes into a folder of one's choice, and mends a file there that is not whole", async () => {
    const folder = join(root, "chosen");
    expect(await download({ folder })).toBe(folder);
    writeFileSync(join(folder, "model.safetensors"), "half");
    hub.sent = [];
    await download({ folder });
    expect(hub.sent).toEqual([`model.safetensors 0-${big.length}`]);
    expect(readFileSync(join(folder, "model.safetensors")).equals(big)).toBe(true);
  });

  it("sends the token", async () => {
    await download({ accessToken: "hf_secret" });
    expect(hub.authorization).toBe("Bearer hf_secret");
  });

  it("stops when asked to, and leaves what came", async () => {
    hub.files = { "model.safetensors": big };
    hub.cuts = [1000];
    const control = new AbortController();
    const running = download({ signal: control.signal, retryMs: 60_000, onProgress: () => control.abort() });
    await expect(running).rejects.toThrow("aborted");
  });

  it("refuses a listing that leads out of the folder", async () => {
    for (const name of ["../evil", "a/../../evil", "/evil", "a\\evil", "C:evil"]) {
      hub.files = { [name]: small };
      expect((await faultOf(download())).message).toContain(`a file called ${JSON.stringify(name)}, which`);
    }
  });

  it("says what is wrong with the name, the access, the network", async () => {
    expect((await faultOf(pull("no-such", { endpoint }))).message).toContain(
      '"no-such" at "main" is not the name',
    );
    expect((await faultOf(pull("org/name", { endpoint, revision: "../x" }))).message).toContain(
      "is not the name",
    );
    expect((await faultOf(pull("org/other", { endpoint }))).message).toContain("does not exist");
    hub.status = 401;
    expect((await faultOf(download())).message).toContain("org/name at main may not be read");
    hub.status = 500;
    expect((await faultOf(download())).message).toContain("is not available from the hub");
    expect((await faultOf(pull("org/name", { endpoint: "http://127.0.0.1:1" }))).message).toContain(
      "The hub can't be reached",
    );
  });
});

describe("pull from ModelScope", () => {
  const fromModelScope = (options: PullOptions = {}): Promise<string> =>
    download({ from: "modelscope", ...options });

  beforeEach(() => {
    process.env.MODELSCOPE_CACHE = mkdtempSync(join(root, "scope-"));
    delete process.env.MODELSCOPE_API_TOKEN;
  });

  it("lays the cache out as ModelScope's own tools do, so that org/name is found", async () => {
    hub.files = {
      "config.json": small,
      "model.safetensors": big,
      "deep/er/notes.txt": small,
      empty: Buffer.of(),
    };
    const folder = await fromModelScope();
    expect(folder).toBe(join(process.env.MODELSCOPE_CACHE!, "models/org/name"));
    for (const [name, data] of Object.entries(hub.files))
      expect(readFileSync(join(folder, name)).equals(data)).toBe(true);
    expect(resolveModel("org/name")).toBe(folder);
    hub.sent = [];
    await fromModelScope();
    expect(hub.sent).toEqual([]);
  });

  it("goes on where a connection broke off, and begins anew if the server ignores ranges", async () => {
    hub.files = { "model.safetensors": big };
    hub.cuts = [100_000, 50_000];
    const whole = join(await fromModelScope(), "model.safetensors");
    expect(readFileSync(whole).equals(big)).toBe(true);
    const starts = hub.sent.map((sent) => Number(/ (\d+)-/.exec(sent)![1]));
    expect(starts).toEqual([0, 100_000, 150_000]);
    rmSync(whole);
    hub.cuts = [1000];
    hub.ignoresRanges = true;
    await fromModelScope();
    expect(readFileSync(whole).equals(big)).toBe(true);
  });

  it("refuses a file whose hash is not that of the listing", async () => {
    hub.garbled = { "model.safetensors": Buffer.alloc(big.length) };
    expect((await faultOf(fromModelScope())).message).toContain("model.safetensors arrived damaged");
  });

  it("says what is wrong with the name, the access, the network, and sends the token", async () => {
    await fromModelScope({ accessToken: "ms-secret" });
    expect(hub.authorization).toBe("m_session_id=ms-secret");
    const missing = await faultOf(pull("org/other", { endpoint, from: "modelscope" }));
    expect(missing.message).toBe("org/other at master does not exist: model not found.");
    hub.status = 403;
    const refused = await faultOf(fromModelScope());
    expect([refused.message, refused.fix].join()).toMatch(/may not be read.*MODELSCOPE_API_TOKEN/);
    process.env.MODELSCOPE_DOMAIN = "http://127.0.0.1:1";
    expect((await faultOf(pull("org/name", { from: "modelscope" }))).message).toContain(
      "The hub can't be reached",
    );
  });
});
