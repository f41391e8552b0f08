import { type ChildProcess, fork, spawn } from "node:child_process";
import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it, vi } from "vitest";
import { UserError } from "../../errors.ts";
import { LOCK_FILE, lockOutput } from "./runLock.ts";

/** Called before every step that the lock takes in the file system. */
let beforeStep: ((name: string, path: unknown) => void) | undefined;
/**
 * Called while a lock that is made in place is empty, in a file system without hard links; undefined: it has
 * them.
 */
let whileEmpty: ((fill: () => void) => void) | undefined;

vi.mock("node:fs", async (original) => {
  const fs = await original<typeof import("node:fs")>();
  const steps = ["readFileSync", "renameSync", "rmSync"] as const;
  const watched = steps.map((name) => {
    const step = fs[name] as (...values: unknown[]) => unknown;
    const announced = (...values: unknown[]): unknown => {
      beforeStep?.(name, values[0]);
      return step(...values);
    };
    return [name, announced];
  });
  const linkless = {
    linkSync(from: string, to: string) {
      beforeStep?.("linkSync", from);
      if (!whileEmpty) return fs.linkSync(from, to);
      throw Object.assign(new Error("no links here"), { code: "EPERM", syscall: "link" });
    },
    writeFileSync(path: string, text: string, options?: { flag: string }) {
      beforeStep?.("writeFileSync", path);
      if (!whileEmpty || options?.flag !== "wx") return fs.writeFileSync(path, text, options);
      fs.writeFileSync(path, "", options);
      let isFilled = false;
      const fill = (): void => {
        if (!isFilled) fs.writeFileSync(path, text);
        isFilled = true;
      };
      whileEmpty(fill);
      fill();
    },
  };
  return { ...fs, ...Object.fromEntries(watched), ...linkless };
});

const folder = mkdtempSync(join(tmpdir(), "lock-"));
afterAll(() => rmSync(folder, { recursive: true }));
const lock = join(folder, LOCK_FILE);
/** A lock of a process that has ended: no process has this number. */
const STALE = JSON.stringify({ pid: 2 ** 30, host: hostname(), started: "1" });

/** How to give the folder up; undefined where it is refused. */
function tryLock(): (() => void) | undefined {
  try {
    return lockOutput(folder);
  } catch (refusal) {
    expect(refusal).toBeInstanceOf(UserError);
    return undefined;
  }
}

it.each([
  ["where no lock is", undefined],
  ["where a process that is gone has left its own", STALE],
])("of two that come at once one takes the folder, at whatever step of the other it comes, %s", (_, left) => {
  for (let step = 0, isDone = false; !isDone; step++) {
    if (left) writeFileSync(lock, left);
    let second: ReturnType<typeof tryLock>;
    let toGo = step;
    beforeStep = () => {
      if (toGo-- > 0) return;
      beforeStep = undefined;
      second = tryLock();
    };
    const first = tryLock();
    isDone = beforeStep !== undefined; // the first was done before the second's turn
    beforeStep = undefined;
    if (!isDone) expect([first, second].filter(Boolean), `step ${step}`).toHaveLength(1);
    first?.();
    second?.();
    expect(readdirSync(folder)).toEqual([]);
  }
});

it.each([
  ["was started anew", { id: "7", restarts: 0 }, true],
  ["has two tasks", { id: "7", restarts: 1 }, false],
  ["is another", { id: "6", restarts: 0 }, false],
  ["is none", null, false],
])("on another machine the lock of a Slurm job that %s is an heir's: %o, %s", (_, job, isHeir) => {
  vi.stubEnv("SLURM_JOB_ID", "7");
  vi.stubEnv("SLURM_RESTART_COUNT", "1");
  writeFileSync(lock, JSON.stringify({ pid: 1, host: "node-that-failed", started: "1", job }));
  const release = tryLock();
  expect(release !== undefined).toBe(isHeir);
  release?.();
  rmSync(lock, { force: true });
  vi.unstubAllEnvs();
});

it("without hard links the lock that another is just making, still empty, is not taken from it", () => {
  let second: ReturnType<typeof tryLock>;
  let looks = 0;
  whileEmpty = (fill) => {
    whileEmpty = () => {};
    beforeStep = (name, path) => {
      if (name === "readFileSync" && path === lock && ++looks === 3) fill();
    };
    second = tryLock();
    beforeStep = undefined;
  };
  const first = tryLock();
  whileEmpty = undefined;
  expect([first, second].filter(Boolean)).toEqual([first]);
  first?.();
  expect(readdirSync(folder)).toEqual([]);
});

it("a lock that stays empty, of one that died while it made it, is no obstacle", () => {
  writeFileSync(lock, "");
  const release = lockOutput(folder);
  expect(JSON.parse(readFileSync(lock, "utf8")).pid).toBe(process.pid);
  release();
  expect(readdirSync(folder)).toEqual([]);
});

it("one that died while it replaced the lock of another that is gone is no obstacle", () => {
  writeFileSync(lock, STALE);
  const heir = `${lock}.${createHash("sha256").update(STALE).digest("hex").slice(0, 16)}`;
  writeFileSync(heir, STALE.replace("{", '{"id":"heir",'));
  const release = lockOutput(folder);
  expect(JSON.parse(readFileSync(lock, "utf8")).pid).toBe(process.pid);
  release();
  expect(readdirSync(folder)).toEqual([]);
});

it("of three processes that find the same lock of one that is gone, one takes its place", async () => {
  const rounds = 100;
  const script = join(folder, "take.mjs");
  const program = new URL("../../../dist/train/folder/runLock.js", import.meta.url);
  writeFileSync(
    script,
    `import { lockOutput } from ${JSON.stringify(program.href)};
    let release;
    process.on("message", (what) => {
      if (what === "take") try { release = lockOutput(${JSON.stringify(folder)}) } catch {}
      else { release?.(); release = undefined }
      process.send(release !== undefined);
    });
    process.send("ready");`,
  );
  const processes = Array.from({ length: 3 }, () => fork(script));
  const tell = (what: string) => (child: ChildProcess) => {
    child.send(what);
    return once(child, "message");
  };
  await Promise.all(processes.map((child) => once(child, "message")));
  for (let round = 0; round < rounds; round++) {
    writeFileSync(lock, STALE.replace("{", `{"id":${round},`));
    const answers = await Promise.all(processes.map(tell("take")));
    expect(answers.flat().filter(Boolean), `round ${round}`).toHaveLength(1);
    await Promise.all(processes.map(tell("release")));
  }
  for (const child of processes) child.disconnect();
  rmSync(script);
  expect(readdirSync(folder)).toEqual([]);
});

it.runIf(process.platform === "linux")(
  "a process that has ended holds nothing, though nobody asked how it ended",
  async () => {
    // the shell becomes a process that never asks for the end of the other
    const parent = spawn("sh", ["-c", "sleep 0 & echo $!; exec sleep 60"], {
      stdio: ["ignore", "pipe", "ignore"],
    });
    try {
      const [number] = (await once(parent.stdout!, "data")) as [Buffer];
      const pid = Number(number.toString());
      const isOver = (): boolean => / Z |^$/.test(statOf(pid)); // or the shell has asked before it changed
      await vi.waitUntil(isOver, { timeout: 20_000 });
      writeFileSync(lock, JSON.stringify({ pid, host: hostname(), started: null }));
      tryLock()!();
    } finally {
      parent.kill("SIGKILL");
    }
  },
);

/** Returns what the system says about a process; nothing if there is no such process. */
function statOf(pid: number): string {
  try {
    return readFileSync(`/proc/${pid}/stat`, "utf8");
  } catch {
    return "";
  }
}
