/** NCCL's carrier on phantom cards: calls, streams, errors and aborts. Nothing moves between these cards. */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { Phantom, phantomProblem } from "../cuda/phantom/phantom.ts";
import { type RunningRanks, startRanks } from "../helpers/ranks/ranks.ts";

const BODY = new URL("./nccl.rank.ts", import.meta.url);
const problem = phantomProblem();
if (problem) console.warn(`SKIPPED: nothing runs on a phantom card: ${problem}`);

describe.skipIf(problem)("two ranks with a card each", () => {
  const folder = mkdtempSync(join(tmpdir(), "lorafit-nccl-"));
  const library = join(folder, "libnccl.so.2");
  let phantom: Phantom;

  beforeAll(() => {
    phantom = new Phantom();
    const args = ["-O1", "-w", "-fPIC", "-shared", join(import.meta.dirname, "fakeNccl.c"), "-o", library];
    expect(spawnSync("cc", args, { encoding: "utf8" }).stderr).toBe("");
  });
  afterAll(() => {
    phantom[Symbol.dispose]();
    rmSync(folder, { recursive: true, force: true });
  });

  async function start(
    name: string,
    { keepOn = false, env }: { keepOn?: boolean; env?: Record<string, string> } = {},
  ): Promise<RunningRanks & { calls: (rank: number) => string[] }> {
    const log = join(folder, name);
    const device = "cuda:0";
    const running = await startRanks(2, BODY, {
      args: { device, keepOn },
      peers: { device },
      env: { ...phantom.environment(), LORAFIT_NCCL: library, FAKE_NCCL_LOG: log, ...env },
    });
    const calls = (rank: number): string[] => readFileSync(`${log}.${rank}`, "utf8").trim().split("\n");
    return Object.assign(running, { calls });
  }

  test("collectives become calls on one stream of their own, in order; what only moves goes as bytes", async () => {
    await using running = await start("order");
    for (const { code, stderr, result } of await running.ends) {
      expect(code, stderr).toBe(0);
      expect(result).toEqual({ extraBytes: 0, pending: 0, onCpu: Array(10).fill(2) });
    }
    for (const rank of [0, 1]) {
      expect(running.calls(rank)).toEqual([
        ...(rank === 0 ? ["id"] : []),
        `join ${rank} of 2 by id 7 7`,
        "sum 1000 of type 9, op 0, in place 1, stream 1",
        "gather 2000 of type 1, stream 1",
        "group",
        "send 2000 of type 1 to 0, stream 1",
        "receive 2000 of type 1 from 0, stream 1",
        "send 2000 of type 1 to 1, stream 1",
        "receive 2000 of type 1 from 1, stream 1",
        "end of group",
        "broadcast 2000 of type 1 from 1, stream 1",
        "sum 1000 of type 9, op 0, in place 1, stream 1",
        "destroy",
      ]);
    }
  });

  test("an error that NCCL finds in the background ends both ranks, and is aborted once", async () => {
    await using running = await start("error", { keepOn: true, env: { FAKE_NCCL_ERROR: "1" } });
    for (const { code, error, stderr } of await running.ends) {
      expect(code, stderr).toBe(1);
      expect(error?.message).toContain("NCCL: a peer has exited; the last words");
    }
    for (const rank of [0, 1]) {
      const calls = running.calls(rank);
      expect(calls.filter((call) => call === "abort")).toHaveLength(1);
      expect(calls).not.toContain("destroy");
    }
  });

  test("a rank that is killed is named, and the other one's communicator is aborted", async () => {
    await using running = await start("killed", { keepOn: true });
    await Promise.all([0, 1].map((rank) => running.said(rank, "summing")));
    running.children[1]!.kill("SIGKILL");
    const { code, error } = await running.end(0);
    expect([code, error?.rank, error?.host]).toEqual([1, 1, hostname()]);
    expect(running.calls(0).at(-1)).toBe("abort");
  });
});
