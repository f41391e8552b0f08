/** An output folder accepts one run at a time. */
import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { hostname } from "node:os";
import { join } from "node:path";
import { expect, it } from "vitest";
import { UserError } from "../../src/errors.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { LOCK_FILE, lockOutput } from "../../src/train/folder/runLock.ts";
import { makeWorkplace, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();

it("a second run into the folder is refused while the first goes on, which ends as if alone and gives the folder up", async () => {
  const output = join(folder, "twice");
  let second: Promise<unknown> | undefined;
  const onFact = ({ fact }: RunFact): void => {
    if (fact === "start") second = runWith({ ...input, max_steps: 1, output });
  };
  const first = await runWith({ ...input, max_steps: 2, output }, { onFact });
  expect(first).toMatchObject({ result: { ended: "finished" } });
  const { error } = (await second) as { error: UserError };
  expect(error).toBeInstanceOf(UserError);
  expect(error.message).toBe(
    `${join(output, LOCK_FILE)}: another run trains into this folder: process ${process.pid} on ${hostname()}.`,
  );
  expect(error.fix).toContain(`kill -INT ${process.pid}`);
  expect(readdirSync(output).filter((name) => name.startsWith(LOCK_FILE))).toEqual([]);
});

it("a run that ends with an error gives the folder up too", async () => {
  const output = join(folder, "error");
  expect(
    await runWith({ ...input, max_steps: 1, data: join(folder, "missing.jsonl"), output }),
  ).toHaveProperty("error");
  expect(existsSync(join(output, LOCK_FILE))).toBe(false);
});

it("the lock of a process that is gone is no obstacle, nor is one that a crash has cut", async () => {
  const gone = spawn(process.execPath, ["-e", "0"]);
  await new Promise((resolve) => gone.on("exit", resolve));
  const output = join(folder, "gone");
  mkdirSync(output);
  const host = hostname();
  const stale = [
    JSON.stringify({ pid: gone.pid, host, started: "1" }),
    JSON.stringify({ pid: process.pid, host, started: "1" }), // the process number was reused
    '{"pid": 1',
  ];
  for (const text of process.platform === "linux" ? stale : [stale[0]!, stale[2]!]) {
    writeFileSync(join(output, LOCK_FILE), text);
    const release = lockOutput(output);
    expect(JSON.parse(readFileSync(join(output, LOCK_FILE), "utf8")).pid).toBe(process.pid);
    release();
    expect(existsSync(join(output, LOCK_FILE))).toBe(false);
  }
});

it("of a process on another machine nobody knows whether it is gone, so its lock stays", () => {
  const output = join(folder, "elsewhere");
  mkdirSync(output);
  const text = JSON.stringify({ pid: 1, host: "another-machine", started: null });
  writeFileSync(join(output, LOCK_FILE), text);
  expect(() => lockOutput(output)).toThrow("process 1 on another-machine");
  expect(readFileSync(join(output, LOCK_FILE), "utf8")).toBe(text);
});
