import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { golden } from "../helpers/shared.ts";
import { lorafit, PROGRAM, type Run, records } from "./lorafit.ts";

const SLOW_MACHINE = { timeout: 240_000 };

const folder = mkdtempSync(join(tmpdir(), "doctor-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Starts the command with these variables, as a launcher would. */
async function started(variables: Record<string, string>, ...words: string[]): Promise<Run> {
  const child = spawn(process.execPath, [PROGRAM, "doctor", "--peers", ...words], {
    env: { ...process.env, ...variables },
  });
  const run: Run = { code: null, stdout: "", stderr: "" };
  child.stdout.on("data", (chunk) => (run.stdout += chunk));
  child.stderr.on("data", (chunk) => (run.stderr += chunk));
  [run.code] = (await once(child, "close")) as [number | null];
  return run;
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/** Variables of a rank of this machine, by hand. */
function rankOf(rank: number, count: number, port: number): Record<string, string> {
  return { RANK: `${rank}`, WORLD_SIZE: `${count}`, MASTER_ADDR: "127.0.0.1", MASTER_PORT: `${port}` };
}

it("doctor --peers reports every rank, every link and the ring, by its own launcher", SLOW_MACHINE, () => {
  const rows = records(
    lorafit([
      "doctor",
      "--peers",
      "--cpu-ranks",
      "3",
      "--json",
      "--timeout",
      "120",
      "--model",
      golden("tiny"),
    ]),
  ) as Record<string, unknown>[];
  const of = (what: string): Record<string, unknown>[] => rows.filter((row) => row.what === what);
  expect(of("rank").map(({ rank }) => rank)).toEqual([0, 1, 2]);
  expect(new Set(of("rank").map(({ model }) => model)).size).toBe(1);
  expect(
    of("link")
      .map(({ from, to }) => `${from}${to}`)
      .sort(),
  ).toEqual(["01", "02", "10", "12", "20", "21"]);
  for (const { bytesPerSecond, latencyMs } of of("link")) {
    expect(bytesPerSecond).toBeGreaterThan(1e6);
    expect(latencyMs).toBeGreaterThan(0);
  }
  expect(of("ring")).toEqual([{ what: "ring", bytesPerSecond: expect.any(Number) }]);
  expect(of("finding")).toEqual([]);
});

it("doctor --peers shows people a table, and only rank 0 prints it", SLOW_MACHINE, async () => {
  const port = await freePort();
  const [first, second] = await Promise.all([started(rankOf(0, 2, port)), started(rankOf(1, 2, port))]);
  expect(first.code, first.stderr).toBe(0);
  expect(first.stdout).toMatch(/^rank 0 .*\nrank 1 /);
  expect(first.stdout).toMatch(/^rank 1 +[\d.]+ GB\/s +-$/m);
  expect(first.stdout).toContain("The ranks can train together.");
  expect(first.stderr).toContain("rank 0 of 2, by environment variables, host");
  expect(second).toMatchObject({ code: 0, stdout: "" });
  expect(second.stderr).toContain("rank 1 of 2");
});

it("names the rank that does not come", SLOW_MACHINE, async () => {
  const { code, stderr } = await started(rankOf(0, 2, await freePort()), "--timeout", "3");
  expect(code).toBe(1);
  expect(stderr).toMatch(/^error: .*rank 1 did not come/m);
});

it("says what a rank sees of a store that is not there", SLOW_MACHINE, async () => {
  const port = await freePort();
  const { code, stderr } = await started(rankOf(1, 2, port), "--timeout", "3");
  expect(code).toBe(1);
  expect(stderr).toContain(`Nothing listens at 127.0.0.1:${port}: rank 0 has not started`);
});

it("refuses ranks whose data differ, and names them", SLOW_MACHINE, async () => {
  const port = await freePort();
  const [first, second] = await Promise.all(
    [0, 1].map((rank) => {
      const data = join(folder, `data-${rank}.jsonl`);
      writeFileSync(data, `{"rank": ${rank}}\n`);
      return started(rankOf(rank, 2, port), "--data", data);
    }),
  );
  expect(first!.code).toBe(1);
  expect(first!.stderr).toMatch(
    /These ranks can't train together:\n {2}the data differs: rank 0 .*, rank 1 /,
  );
  expect(second!.code).toBe(0);
});

it("refuses to check a process that is alone, and an interface that is not there", async () => {
  const alone = await started({});
  expect(alone.code).toBe(2);
  expect(alone.stderr).toContain("torchrun --no-python --nproc-per-node 4 lorafit doctor --peers");
  const wrong = await started({ ...rankOf(0, 2, 29_500), GLOO_SOCKET_IFNAME: "^lo" });
  expect(wrong.code).toBe(1);
  expect(wrong.stderr).toContain('this machine has no interface "^lo"');
});
