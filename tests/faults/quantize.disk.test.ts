/** The disk becomes full while a command writes a whole checkpoint, although there was room at the start. */
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeEach, expect, it, vi } from "vitest";
import { mergeCheckpoint } from "../../src/checkpoint/merge.ts";
import { UserError } from "../../src/errors.ts";
import { quantizeCheckpoint } from "../../src/models/precision/quantizeCheckpoint.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { memoryStats } from "../../src/torch/device.ts";
import { golden } from "../helpers/shared.ts";

const { disk, untilItWorks, withFaults } = await vi.hoisted(() => import("./fullDisk.ts"));
vi.mock("node:fs", async (original) => withFaults(await original()));

const root = mkdtempSync(join(tmpdir(), "full-"));
const model = join(root, "model");
const results = join(root, "results");
const output = join(results, "written");
writeTinyCheckpoint(model, { ...TINY, hidden: 32, heads: 4, kvHeads: 2, layers: 2, ffn: 48, vocab: 97 });
afterAll(() => rmSync(root, { recursive: true }));
beforeEach(() => {
  rmSync(results, { recursive: true, force: true });
  mkdirSync(results);
});

const WRITERS: [string, () => Promise<unknown>][] = [
  ["quantize", () => quantizeCheckpoint(model, output, { base: "nf4" })],
  ["merge", () => mergeCheckpoint(golden("tiny"), golden("tiny_lora"), output, { shardBytes: 400_000 })],
];

it.each(WRITERS)(
  "%s says so, whichever operation of the disk fails, and leaves nothing behind",
  async (_, write) => {
    const beforeBytes = memoryStats("cpu").liveBytes;
    const afterFailure = (thrown: unknown): void => {
      expect(thrown).toBeInstanceOf(UserError);
      expect(thrown).toMatchObject({
        message: expect.stringMatching(/written.* cannot be written: ENOSPC/),
        fix: "The disk is full: make room, or write to another one.",
      });
      expect(readdirSync(results).filter((name) => name !== "written")).toEqual([]);
      if (existsSync(output)) rmSync(output, { recursive: true }); // it is complete: only the sync of its parent folder failed
      expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
    };
    expect(await untilItWorks(write, afterFailure, 7)).toBeGreaterThan(10);
    expect(disk.operations).toBeGreaterThan(70);
    expect(readdirSync(results)).toEqual(["written"]);
  },
);

/**
 * Runs a command with a file system of 4 MiB mounted at a folder of this test. Returns undefined if this
 * machine does not let users mount one.
 */
function onSmallDisk(command: string[]): { status: number | null; stderr: string } | undefined {
  const mounted = `mount -t tmpfs -o size=4m none ${results}`;
  const inside = (script: string, ...words: string[]) =>
    spawnSync("unshare", ["-rm", "sh", "-c", `${mounted} && ${script}`, ...words], { encoding: "utf8" });
  if (inside("true").status !== 0) return undefined;
  return inside(`"$0" "$@"; code=$?; ls -A ${results} >&2; exit $code`, ...command);
}

it("quantize on a file system that another program fills meanwhile ends with the same words", ({ skip }) => {
  const script = join(root, "fill.mjs");
  const built = (path: string): string => JSON.stringify(new URL(`../../dist/${path}`, import.meta.url).href);
  writeFileSync(
    script,
    `import { writeFileSync } from "node:fs";
    import { quantizeCheckpoint } from ${built("models/precision/quantizeCheckpoint.js")};
    const fill = () => {
      try { writeFileSync(${JSON.stringify(join(results, "other"))}, Buffer.alloc(2 ** 23)) } catch {}
    };
    await quantizeCheckpoint(${JSON.stringify(model)}, ${JSON.stringify(output)}, { base: "nf4", onProgress: fill })
      .catch(({ name, message, fix }) => console.error(name, message, fix));`,
  );
  const ended = onSmallDisk([process.execPath, script]);
  if (!ended) return skip("no user may mount a file system here");
  expect(ended.status, ended.stderr).toBe(0);
  expect(ended.stderr).toMatch(
    /^UserError .*written.* cannot be written: ENOSPC.* The disk is full: make room/,
  );
  expect(ended.stderr.trim().split("\n").slice(1)).toEqual(["other"]);
});

it.for([
  ["pages", "--output", output, "--count", "20"],
  ["tiny", "--output", output],
])("%s on a disk that is too small says so, and leaves no half of a thing", (words, { skip }) => {
  const program = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
  const ended = onSmallDisk([process.execPath, program, ...words]);
  if (!ended) return skip("no user may mount a file system here");
  expect(ended.status, ended.stderr).toBe(1);
  expect(ended.stderr).toMatch(
    /error: .* cannot be written: ENOSPC.*\n {2}The disk is full: make room, or write to another one\.\n$/,
  );
});
