import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, it } from "vitest";
import { COMMIT, type HubServer, startHub } from "../helpers/hubServer.ts";
import { PROGRAM, type Run, records } from "./lorafit.ts";

const weights = Buffer.alloc(300_000, 7);
let hub: HubServer;
let home: string;

beforeEach(async () => {
  hub = await startHub({ "config.json": Buffer.from("{}"), "model.safetensors": weights });
  home = mkdtempSync(join(tmpdir(), "pull-"));
});
afterEach(async () => {
  await hub.close();
  rmSync(home, { recursive: true });
});

/** Runs in its own process, because the server answers from this one. */
function pull(...args: string[]): Promise<Run> {
  const env = { ...process.env, HF_HOME: home, HF_HUB_CACHE: "", HF_ENDPOINT: hub.endpoint, HF_TOKEN: "" };
  return new Promise((ended) => {
    execFile(process.execPath, [PROGRAM, "pull", ...args], { env }, (error, stdout, stderr) => {
      ended({ code: error ? Number(error.code) : 0, stdout, stderr });
    });
  });
}

it("downloads into the cache, over a connection that breaks off, and prints the folder", async () => {
  hub.cuts = [2, 100_000];
  const folder = join(home, "hub/models--org--name/snapshots", COMMIT);
  expect(records(await pull("org/name", "--json"))).toEqual([{ folder }]);
  expect(readFileSync(join(folder, "model.safetensors")).equals(weights)).toBe(true);
  const again = await pull("org/name", "--folder", join(home, "mine"));
  expect(again.stdout).toBe(`${join(home, "mine")}\n`);
});

it("downloads from ModelScope into its own cache", async () => {
  const cache = join(home, "scope");
  const env = { MODELSCOPE_CACHE: cache, MODELSCOPE_DOMAIN: hub.endpoint };
  Object.assign(process.env, env);
  const folder = join(cache, "models/org/name");
  expect(records(await pull("org/name", "--from", "modelscope", "--json"))).toEqual([{ folder }]);
  expect(readFileSync(join(folder, "model.safetensors")).equals(weights)).toBe(true);
  for (const name of Object.keys(env)) delete process.env[name];
});

it("says what the hub refused, in one error and without a stack", async () => {
  const { code, stderr } = await pull("org/other");
  expect(code).not.toBe(0);
  expect(stderr).toContain("org/other at main does not exist");
  expect(stderr).not.toMatch(/^\s+at /m);
});
