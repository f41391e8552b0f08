/**
 * Measures a training step on the CPU beside the official recipe in plain PyTorch with PEFT, or beside
 * transformers with PEFT for families that it has (`make bench-cpu FAMILY=qwen2_5_vl`). Both sides take turns
 * in one run, with equal weights, factors and micro-batch. Prints `speed ratio R` and `memory ratio R`, ours
 * to theirs. Our policy is the fastest that fits --memory beside the weights, or --policy.
 */
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import type { TinyFamilyName } from "../src/cli/commands/tiny.ts";
import { formatBytes } from "../src/errors.ts";
import { listOfChoices } from "../src/options.ts";
import { packageRoot } from "../src/torch/install/libtorch.ts";
import { MODEL, PEERS, prepareTask } from "./cpuTask.ts";
import { median, type StepReport, Worker } from "./workers.ts";

const { values: flags } = parseArgs({
  options: {
    steps: { type: "string", default: "5" },
    family: { type: "string", default: "xcomposer2-4khd" },
    threads: { type: "string", default: "2" },
    memory: { type: "string", default: "300MiB" },
    policy: { type: "string" },
    attention: { type: "string", default: "eager" },
    alone: { type: "boolean", default: false },
  },
});

const family = familyOf(flags.family);
const folder = join(
  packageRoot,
  "bench-out",
  family === "xcomposer2-4khd" ? "cpu-bench" : `cpu-bench-${family}`,
);
const python = join(packageRoot, "bench", ".venv", "bin", "python");
if (process.argv[1] === fileURLToPath(import.meta.url)) await main();

async function main(): Promise<void> {
  const { memory, policy, attention } = flags;
  const threads = Number(flags.threads);
  const taskFile = prepareTask(folder, MODEL, { threads, memory, policy, attention, family });
  const ours = await Worker.start([process.execPath, join(import.meta.dirname, "ours.js"), taskFile]);
  const peer = flags.alone ? undefined : await startPeer(taskFile);
  const reports: Record<string, StepReport[]> = { ours: [], theirs: [] };
  const steps = Number(flags.steps);
  for (let step = 0; step <= steps; step++) {
    for (const [side, worker] of Object.entries({ ours, theirs: peer })) {
      if (!worker) continue;
      const report = await worker.step();
      console.log(lineOf(step, worker.name, report));
      reports[side]!.push(report);
    }
  }
  await Promise.all([ours.stop(), peer?.stop()]);
  if (peer) compare(reports.ours!, reports.theirs!);
}

/** Throws for a family without a peer. */
function familyOf(name: string): TinyFamilyName {
  if (name in PEERS) return name as TinyFamilyName;
  throw new Error(`--family takes ${listOfChoices(Object.keys(PEERS))} (got ${name})`);
}

function startPeer(taskFile: string): Promise<Worker> {
  const script = join(packageRoot, "bench", "peers", PEERS[family]!);
  return Worker.start([python, script, taskFile]);
}

function lineOf(step: number, name: string, report: StepReport): string {
  const { seconds, cpuSeconds, loss, gradientNorm, peakRssBytes, peakAllocatedBytes } = report;
  const allocated = peakAllocatedBytes ? `, allocated ${formatBytes(peakAllocatedBytes)}` : "";
  const times = `${seconds.toFixed(2)} s (processor ${cpuSeconds.toFixed(2)} s)`;
  const numbers = `loss ${loss.toFixed(4)}  gradient ${gradientNorm.toFixed(4)}`;
  const memory = `peak beyond the weights: resident ${formatBytes(peakRssBytes)}${allocated}`;
  return `${step === 0 ? "warm-up" : `step ${step} `} ${name.padEnd(34)} ${times}  ${numbers}  ${memory}`;
}

/** Throws where the two sides did not compute the same. */
function compare(ours: StepReport[], theirs: StepReport[]): void {
  for (const [step, mine] of ours.entries()) {
    const other = theirs[step]!;
    for (const number of ["loss", "gradientNorm"] as const) {
      const difference = Math.abs(mine[number] / other[number] - 1);
      if (difference > 0.02)
        throw new Error(`step ${step}: ${number} ${mine[number]} here and ${other[number]} there`);
    }
  }
  const of = (side: StepReport[], number: "seconds" | "cpuSeconds" | "peakRssBytes"): number =>
    median(side.slice(1).map((report) => report[number]));
  const ratio = (number: "seconds" | "cpuSeconds"): string =>
    (of(theirs, number) / of(ours, number)).toFixed(2);
  const resident = [ours, theirs].map((side) => Math.max(...side.map((report) => report.peakRssBytes)));
  const allocated = Math.max(...ours.map((report) => report.peakAllocatedBytes!));
  console.log(
    `median seconds: ours ${of(ours, "seconds").toFixed(2)}, theirs ${of(theirs, "seconds").toFixed(2)}`,
  );
  console.log(`processor time ratio ${ratio("cpuSeconds")} (what other processes take does not count)`);
  console.log(`ours, as its allocator counts, to their resident: ${(allocated / resident[1]!).toFixed(3)}`);
  console.log(`speed ratio ${ratio("seconds")}`);
  console.log(`memory ratio ${(resident[0]! / resident[1]!).toFixed(3)}`);
}
