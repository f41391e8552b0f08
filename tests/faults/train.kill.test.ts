/** Training as a process: killed, interrupted, and with a full disk. */
import { type ChildProcess, spawn } from "node:child_process";
import { cpSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { expect, it } from "vitest";
import { SAME_SIGNAL_MS } from "../../src/launch/exitCodes.ts";
import { checkpointFolders, lastGoodCheckpoint } from "../../src/train/folder/checkpoints.ts";
import { PROGRAM } from "../e2e/lorafit.ts";
import { lcg } from "../helpers/randomModel.ts";
import { makeWorkplace, noticesOf, resultOf, runWith } from "./trainRun.ts";

const { folder, input } = await makeWorkplace();
const random = lcg(Date.now());

/** A long run with dropout, shuffling and many checkpoints; several samples have pictures. */
const long = {
  ...input,
  max_steps: 24,
  gradient_accumulation: 2,
  lora_dropout: 0.2,
  shuffle: true,
  save_every: 2,
};
const whole = join(folder, "whole");

it("kill -9 at ten random moments loses at most the steps since the last checkpoint, and no byte of the result", async () => {
  expect(await runWith({ ...long, output: whole })).toMatchObject({ result: { ended: "finished" } });
  const output = join(folder, "killed");
  const config = writeConfig("killed", { ...long, output });
  let kept = 0;
  for (let kill = 0; kill < 10; kill++) {
    if (kept > long.max_steps / 2) {
      rmSync(output, { recursive: true }); // a fast machine reaches the end before the tenth kill
      kept = 0;
    }
    const child = start(config);
    await linesOf(child, 1); // after its first step it only runs steps and saves checkpoints
    await sleep(random() * 60);
    child.process.kill("SIGKILL");
    await child.ended;
    const last = await lastGoodCheckpoint(output, (broken, fault) =>
      expect.unreachable(`${broken}: ${fault}`),
    );
    const step = last?.state.step ?? 0;
    expect(step).toBeGreaterThanOrEqual(kept);
    expect(child.steps().at(-1)! - step).toBeLessThanOrEqual(long.save_every);
    if (kept > 0) expect(child.steps()[0]).toBe(kept + 1);
    kept = step;
  }
  const last = start(config);
  expect(await last.ended).toBe(0);
  expect(resultOf(output)).toEqual(resultOf(whole));
  expect(readdirSync(output).filter((name) => name.startsWith("."))).toEqual([]);
}, 240_000); // twelve processes, on a machine that may be busy

it.each<[string, (checkpoint: string) => void, RegExp]>([
  [
    "cut short",
    (checkpoint) => truncateSync(join(checkpoint, "optimizer.safetensors"), 1000),
    /has 1000 bytes of/,
  ],
  [
    "changed in a byte",
    (checkpoint) => flipByte(join(checkpoint, "adapter_model.safetensors")),
    /has changed since/,
  ],
  [
    "without its state",
    (checkpoint) => writeFileSync(join(checkpoint, "trainer_state.json"), ""),
    /has 0 bytes of/,
  ],
])(
  "a newest checkpoint that is %s is set aside, and the one before it is gone on from",
  async (name, damage, fault) => {
    const output = join(folder, `damaged ${name}`);
    cpSync(whole, output, { recursive: true });
    damage(join(output, "checkpoint-24"));
    const { events, ...end } = await runWith({ ...long, output, resume: true });
    expect(end).toMatchObject({ result: { ended: "finished" } });
    const notice = noticesOf(events).join("\n");
    expect(notice).toMatch(fault);
    expect(notice).toContain(join(output, "broken-checkpoint-24"));
    expect(events).toContainEqual(expect.objectContaining({ fact: "start", step: 22 }));
    expect(resultOf(output)).toEqual(resultOf(whole));
  },
);

it("Ctrl-C finishes the micro-batch and saves; a second one stops at once", async () => {
  const output = join(folder, "interrupted");
  const slow = { ...long, max_steps: 1000, output };
  const once = start(writeConfig("interrupted", slow));
  await linesOf(once, 1);
  once.process.kill("SIGINT");
  expect(await once.ended).toBe(130);
  expect(once.stderr()).toContain("stopping after this micro-batch (again to stop at once)");
  expect(once.stderr()).toContain(`Continue with:  npx lorafit train --resume ${output}`);
  const [checkpoint] = (await checkpointFolders(output)).slice(-1);
  expect(once.stderr()).toContain(`saved ${checkpoint}`);

  // The run pauses between its answer to the first Ctrl-C and the second Ctrl-C.
  const goOn = join(folder, "go on");
  const twice = start(writeConfig("twice", { ...slow, save_every: 1000, output: join(folder, "twice") }), {
    NODE_OPTIONS: `--import ${pathToFileURL(writeHold(goOn))}`,
  });
  await until(() => twice.stderr().includes("samples"));
  twice.process.kill("SIGINT");
  await until(() => twice.stderr().includes("again to stop at once"));
  await sleep(SAME_SIGNAL_MS);
  twice.process.kill("SIGINT");
  writeFileSync(goOn, "");
  expect(await twice.ended).toBe(130);
  expect(await checkpointFolders(join(folder, "twice"))).toEqual([]);
  expect(twice.stderr()).not.toContain("saved");
});

/** Writes a module that pauses its process after the hint "again to stop at once", until a file exists. */
function writeHold(file: string): string {
  const path = join(folder, "hold.mjs");
  const lines = [
    'import { existsSync } from "node:fs";',
    "const write = process.stderr.write.bind(process.stderr);",
    "process.stderr.write = (text, ...rest) => {",
    "  const written = write(text, ...rest);",
    '  const holds = String(text).includes("again to stop at once");',
    `  while (holds && !existsSync(${JSON.stringify(file)})) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 5);`,
    "  return written;",
    "};",
  ];
  writeFileSync(path, lines.join("\n"));
  return path;
}

it("a disk that takes no more ends the run with what to do, and the checkpoint before stays good", async () => {
  const output = join(folder, "full");
  await runWith({ ...long, output }, { stopAfterMicroBatches: 9 });
  const before = await lastGoodCheckpoint(output, () => expect.unreachable());
  const child = start(writeConfig("full", { ...long, output }), {}, "ulimit -f 6"); // KiB: the largest file allowed
  expect(await child.ended, child.stderr()).toBe(1);
  expect(child.stderr()).toMatch(/error: .* cannot be written: EFBIG/);
  expect(child.stderr()).toContain(`The last good checkpoint is ${before?.folder}.`);
  expect(child.stderr()).toContain(`npx lorafit train --resume ${output}`);
  expect(await lastGoodCheckpoint(output, () => expect.unreachable())).toEqual(before);

  expect(await runWith({ ...long, output, resume: true })).toMatchObject({ result: { ended: "finished" } });
  expect(resultOf(output)).toEqual(resultOf(whole));
});

interface Child {
  process: ChildProcess;
  ended: Promise<number | null>;
  steps: () => number[];
  stderr: () => string;
}

function start(config: string, environment: NodeJS.ProcessEnv = {}, before = ":"): Child {
  const command = `${before}; exec "$0" "$@"`;
  const args = [process.execPath, PROGRAM, "train", "--config", config, "--resume", "--json"];
  const child = spawn("bash", ["-c", command, ...args], { env: { ...process.env, ...environment } });
  let [stdout, stderr] = ["", ""];
  child.stdout.on("data", (chunk) => (stdout += chunk));
  child.stderr.on("data", (chunk) => (stderr += chunk));
  const ended = new Promise<number | null>((done) => child.on("close", done));
  const whole = (): string[] =>
    stdout
      .slice(0, stdout.lastIndexOf("\n") + 1)
      .split("\n")
      .filter(Boolean);
  const steps = (): number[] => whole().map((line) => (JSON.parse(line) as { step: number }).step);
  return { process: child, ended, steps, stderr: () => stderr };
}

async function linesOf(child: Child, count: number): Promise<void> {
  await until(() => child.steps().length >= count || child.process.exitCode !== null);
  if (child.steps().length < count) throw new Error(`it ended: ${child.stderr()}`);
}

async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await sleep(5);
}

/** Writes options as a configuration file, and returns its path. JSON is also YAML. */
function writeConfig(name: string, options: object): string {
  const path = join(folder, `${name}.yaml`);
  writeFileSync(path, JSON.stringify(options));
  return path;
}

function flipByte(path: string): void {
  const bytes = readFileSync(path);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(path, bytes);
}
