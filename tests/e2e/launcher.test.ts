import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, expect, it, vi } from "vitest";

const DIST = fileURLToPath(new URL("../../dist/", import.meta.url));
const SLOW_MACHINE = { timeout: 240_000 };

const folder = mkdtempSync(join(tmpdir(), "launcher-"));
afterAll(() => rmSync(folder, { recursive: true }));

/** Starts a launcher as a process, with two ranks that run this JavaScript once they watch the launcher. */
function startLauncher(name: string, body: string): { launcher: ChildProcess; log(rank: number): string } {
  const logs = join(folder, name);
  const rank = `const rank = +process.env.RANK;
    const { watchLauncher } = await import("${DIST}launch/watchLauncher.js");
    watchLauncher(process.env, 500);
    console.error("pid", process.pid);
    ${body}`;
  const script = `
    import { launchRanks } from "${DIST}launch/launchRanks.js";
    const { code } = await launchRanks({
      command: [process.execPath, "--input-type=module", "-e", ${JSON.stringify(rank)}],
      localCount: 2, node: undefined, logs: ${JSON.stringify(logs)}, environment: process.env,
      shownVariables: {}, terminal: process.stderr,
    });
    process.exitCode = code;`;
  const launcher = spawn(process.execPath, ["--input-type=module", "-e", script], { stdio: "inherit" });
  const log = (which: number): string => {
    try {
      return readFileSync(join(logs, `rank-${which}.log`), "utf8");
    } catch {
      return ""; // not there yet
    }
  };
  return { launcher, log };
}

/** Waits until both ranks have written a line, and returns their process ids. */
async function ready(log: (rank: number) => string, word: string): Promise<number[]> {
  return await vi.waitFor(
    () =>
      [0, 1].map((rank) => {
        expect(log(rank)).toMatch(new RegExp(`^${word}$`, "m"));
        return Number(/^pid (\d+)$/m.exec(log(rank))?.[1]);
      }),
    { timeout: 120_000, interval: 50 },
  );
}

function isAlive(pid: number): boolean {
  try {
    const state = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ").at(-1);
    return !state?.startsWith("Z"); // nobody may wait for an orphan in a container
  } catch {
    return false;
  }
}

async function gone(pids: readonly number[]): Promise<void> {
  await vi.waitFor(() => expect(pids.filter(isAlive)).toEqual([]), { timeout: 120_000, interval: 50 });
}

async function codeOf(launcher: ChildProcess): Promise<number | null> {
  if (launcher.exitCode !== null) return launcher.exitCode;
  return await new Promise((done) => launcher.on("exit", done));
}

const WAIT = `setInterval(() => {}, 1e6); console.error("ready");`;
const BUSY = `console.error("ready"); for (;;);`;

it(
  "a launcher that is killed leaves no rank, idle or in the middle of a long computation",
  SLOW_MACHINE,
  async () => {
    const { launcher, log } = startLauncher("killed", `if (rank === 0) { ${WAIT} } else { ${BUSY} }`);
    const pids = await ready(log, "ready");
    launcher.kill("SIGKILL");
    await gone(pids);
  },
);

it("a rank may save before it ends with its launcher, but must end", SLOW_MACHINE, async () => {
  const saved = join(folder, "saved");
  const save = `const { writeFileSync } = await import("node:fs");
      process.on("SIGTERM", () => { writeFileSync(${JSON.stringify(saved)}, "saved"); process.exit(); });`;
  const deaf = `process.on("SIGTERM", () => {});`;
  const { launcher, log } = startLauncher(
    "saving",
    `if (rank === 0) { ${save} ${WAIT} } else { ${deaf} ${BUSY} }`,
  );
  const pids = await ready(log, "ready");
  launcher.kill("SIGKILL");
  await gone(pids);
  expect(readFileSync(saved, "utf8")).toBe("saved");
});

it("the first Ctrl-C stops the ranks gracefully, as one interruption", SLOW_MACHINE, async () => {
  const stop = `process.on("SIGINT", () => { console.error("stopping"); process.exit(130); });`;
  const { launcher, log } = startLauncher("stopped", `${stop} ${WAIT}`);
  await ready(log, "ready");
  launcher.kill("SIGINT");
  expect(await codeOf(launcher)).toBe(130);
  for (const rank of [0, 1]) expect(log(rank).match(/^stopping$/gm)).toHaveLength(1);
});

it("a second Ctrl-C ends ranks at once that take long to stop", SLOW_MACHINE, async () => {
  const slow = `process.on("SIGINT", () => console.error("stopping"));`;
  const { launcher, log } = startLauncher("twice", `${slow} ${WAIT}`);
  const pids = await ready(log, "ready");
  launcher.kill("SIGINT");
  await ready(log, "stopping");
  const again = setInterval(() => launcher.kill("SIGINT"), 200); // one soon after the first counts as its copy
  expect(await codeOf(launcher)).toBe(130);
  clearInterval(again);
  await gone(pids);
});
