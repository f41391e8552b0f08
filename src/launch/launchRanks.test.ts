import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import type { PlaceOfNode } from "../torch/peers/node.ts";
import { type PlaceOfRank, placeOf } from "../torch/peers/place.ts";
import { launchRanks, type RanksEnd } from "./launchRanks.ts";
import { withoutLive } from "./rankLogs.ts";
import { openStoreSocket } from "./storeSocket.ts";

const folder = mkdtempSync(join(tmpdir(), "launch-"));
afterAll(() => rmSync(folder, { recursive: true }));

let runs = 0;
/** A rank's grace is long here: only a test that says so may end by it. */
const PATIENT = { ownEndMs: 120_000, graceMs: 120_000, finishMs: 120_000 };

/** Starts ranks that run this JavaScript, and returns their end, what the terminal showed, and their logs. */
async function launch(
  body: string,
  { ranks = 2, node, ...patience }: { ranks?: number; node?: PlaceOfNode } & Partial<typeof PATIENT> = {},
): Promise<RanksEnd & { terminal: string; log(rank: number): string }> {
  const logs = join(folder, String(runs++));
  let terminal = "";
  const end = await launchRanks(
    {
      command: [process.execPath, "-e", `const rank = +process.env.RANK;\n${body}`],
      ...{ localCount: ranks, node, logs, environment: process.env, shownVariables: { SHOWN: "yes" } },
      terminal: { write: (text) => (terminal += text) },
    },
    { ...PATIENT, ...patience },
  );
  return { ...end, terminal, log: (rank) => readFileSync(join(logs, `rank-${rank}.log`), "utf8") };
}

/** Runs until a signal comes. */
const FOREVER = "setInterval(() => {}, 1e6);";

/** Returns a port that nothing listened at a moment ago. */
async function freePort(): Promise<number> {
  const socket = await openStoreSocket(undefined);
  socket.close();
  return socket.port;
}

function placeIn(text: string): PlaceOfRank | undefined {
  return placeOf(JSON.parse(/^{.*}$/m.exec(text)?.[0] ?? "{}"));
}

it("gives each rank its place on this machine, a log, and rank 0 the terminal and a listening socket", async () => {
  const { code, terminal, log } = await launch(
    `const { OMP_NUM_THREADS: _, PATH: __, ...env } = process.env;
     console.error(JSON.stringify(env));
     if (rank === 0) {
       const server = require("node:net").createServer().listen({ fd: +env.LORAFIT_STORE_FD }, () => {
         console.error("port", server.address().port === +env.MASTER_PORT, server.address().address);
         server.close();
       });
     }`,
    { ranks: 3 },
  );
  expect(code).toBe(0);
  const places = [0, 1, 2].map((rank) => placeIn(log(rank)));
  expect(places.map((place) => [place?.rank, place?.localRank])).toEqual([
    [0, 0],
    [1, 1],
    [2, 2],
  ]);
  for (const place of places)
    expect(place).toMatchObject({ count: 3, localCount: 3, host: "127.0.0.1", launcher: "lorafit" });
  expect(new Set(places.map((place) => place?.port)).size).toBe(1);
  expect(places.map((place) => place?.listenFd)).toEqual([4, undefined, undefined]);
  expect(terminal).toContain("port true 127.0.0.1");
  expect(terminal).toContain('"SHOWN":"yes"');
  expect(log(0)).toContain("port true");
  expect(log(1)).not.toContain("SHOWN");
});

it("numbers the ranks of several machines, of which the first serves the store on the given port", async () => {
  const at = { launcher: "PyTorchJob", count: 2, host: "localhost", port: await freePort() };
  const body = "console.error(JSON.stringify(process.env));";
  const [first, second] = await Promise.all([
    launch(body, { node: { ...at, index: 0 } }),
    launch(body, { node: { ...at, index: 1 } }),
  ]);
  const places = [first.log(0), first.log(1), second.log(2), second.log(3)].map(placeIn);
  expect(places.map((place) => place?.rank)).toEqual([0, 1, 2, 3]);
  expect(places.map((place) => place?.localRank)).toEqual([0, 1, 0, 1]);
  for (const place of places)
    expect(place).toMatchObject({
      count: 4,
      localCount: 2,
      port: at.port,
      launcher: "lorafit and PyTorchJob",
    });
  expect(places.map((place) => place?.listenFd)).toEqual([4, undefined, undefined, undefined]);
  expect(second.terminal).toBe("");
});

it("ends the other ranks when one fails, with its code and its error", async () => {
  const { code, failed } = await launch(
    `if (rank === 1) { console.error("note\\nerror: no picture\\n  do this"); process.exit(3); }
     ${FOREVER}`,
    { ranks: 3, ownEndMs: 0 },
  );
  expect(code).toBe(3);
  expect(failed).toMatchObject({ rank: 1, how: "ended with exit code 3", isShown: false });
  expect(failed?.error).toBe("no picture\n  do this");
});

it("lets the other ranks end with errors of their own, and names the one that failed by itself", async () => {
  const { code, failed } = await launch(
    `if (rank === 0) process.exit(75); // lost rank 1, whose process takes longer to end
     setTimeout(() => process.exit(9), 300);`,
  );
  expect(code).toBe(9);
  expect(failed).toMatchObject({ rank: 1, isShown: false });
});

it("reports 75 if every rank lost another, as when a machine is gone", async () => {
  expect(await launch("process.exit(75);")).toMatchObject({ code: 75 });
});

it("kills a rank that does not end on SIGTERM", async () => {
  const { code, log } = await launch(
    `process.on("SIGTERM", () => console.error("heard"));
     if (rank === 0) console.error("ready");
     if (rank === 1) setTimeout(() => process.kill(process.pid, "SIGKILL"), 300);
     ${FOREVER}`,
    { ownEndMs: 500, graceMs: 500 },
  );
  expect(code).toBe(137);
  expect(log(0)).toContain("heard");
});

it("ends ranks that stay when rank 0 has finished the run", async () => {
  const { code, failed } = await launch(`if (rank === 1) { ${FOREVER} }`, { finishMs: 500 });
  expect(code).toBe(143);
  expect(failed).toMatchObject({ rank: 1, how: "was ended by SIGTERM" });
});

it("reports a command that can't be started", async () => {
  const end = await launchRanks({
    ...{ command: ["/no/such/program"], localCount: 2, node: undefined, logs: join(folder, "none") },
    ...{ environment: process.env, shownVariables: {}, terminal: { write: () => true } },
  });
  expect(end.code).toBe(1);
  expect(end.failed?.error).toContain("ENOENT");
});

it("keeps the live line out of the log", async () => {
  expect(withoutLive("\rstep 1\x1b[K\rstep 2\x1b[K\r\x1b[Ksaved\n")).toBe("saved\n");
  const { log, terminal } = await launch(
    `if (rank === 0) process.stderr.write("one\\n\\rstep 1\\x1b[K\\rstep 2\\x1b[K\\r\\x1b[Ktwo\\nrest");`,
  );
  expect(log(0)).toMatch(/\none\ntwo\nrest$/);
  expect(terminal).toContain("\rstep 2\x1b[K");
});

it("appends to the log of an earlier attempt", async () => {
  const logs = join(folder, "twice");
  const request = {
    ...{
      command: [process.execPath, "-e", "console.error('here')"] as const,
      localCount: 2,
      node: undefined,
      logs,
    },
    ...{ environment: process.env, shownVariables: {}, terminal: { write: () => true } },
  };
  await launchRanks({ ...request, command: [...request.command] });
  await launchRanks({ ...request, command: [...request.command] });
  expect(readFileSync(join(logs, "rank-1.log"), "utf8").match(/^here$/gm)).toHaveLength(2);
});
