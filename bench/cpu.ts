/**
 * Measures a training step on the CPU beside the official recipe in plain PyTorch with PEFT (`make
 * bench-cpu`). Both sides take turns in one run, with equal weights, factors and micro-batch. Prints `speed
 * ratio R` and `memory ratio R`, ours to theirs. Our policy is the fastest that fits --memory beside the
 * weights, or --policy.
 */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { writeAdapter } from "../src/checkpoint/adapter/peft.ts";
import { formatBytes, parseBytes } from "../src/errors.ts";
import { adapterFromLora, createLora, disposeLora } from "../src/models/lora.ts";
import { loadModel } from "../src/models/weights.ts";
import { OFFICIAL_TARGETS } from "../src/models/xcomposer2/spec.ts";
import { TINY, tinyConfig, writeTinyCheckpoint } from "../src/models/xcomposer2/tiny.ts";
import { exactShape } from "../src/plan/dryRun/batchShapes.ts";
import type { SizedWorkload } from "../src/plan/planner.ts";
import { fastestPlan } from "../src/plan/search.ts";
import { DEFAULT_POLICY, type Policy } from "../src/step/policy.ts";
import { packageRoot } from "../src/torch/install/libtorch.ts";
import { createGenerator } from "../src/torch/random.ts";
import { scope } from "../src/torch/tensor.ts";
import { plannerOf } from "../src/train/machine/modelPlanner.ts";
import { withOpened } from "../src/train/machine/openedModel.ts";
import { median, type StepReport, Worker } from "./workers.ts";
import { noiseImage, sampleBatch, writeBatch } from "./workload.ts";

/**
 * A third of the official model's width, its vocabulary and PLoRA ranks; a small tower, because the peer has
 * none.
 */
const MODEL = {
  ...TINY,
  ...{ hidden: 1024, layers: 12, heads: 8, kvHeads: 2, ffn: 3584, vocab: 92_544, ploraRank: 256 },
  ...{ visionHidden: 64, visionLayers: 1, visionHeads: 2, visionFfn: 128 },
  dtype: "bfloat16",
} as const;
/** 3 x 3 tiles are 1,489 tokens. */
const SAMPLE = { grid: 3, textTokens: 300, labelTokens: 150, vocab: MODEL.vocab };
const LORA = { rank: 16, alpha: 16, learningRate: 1e-4 };

/** The task of both workers; paths are absolute. */
export interface CpuTask {
  threads: number;
  checkpoint: string;
  adapterFolder: string;
  grid: number;
  textTokens: number;
  labelTokens: number;
  vocab: number;
  rank: number;
  alpha: number;
  learningRate: number;
  policy: object;
  /** The peer's files. */
  weights: string[];
  adapter: string;
  batch: string;
  model: object;
}

const { values: flags } = parseArgs({
  options: {
    steps: { type: "string", default: "5" },
    threads: { type: "string", default: "2" },
    memory: { type: "string", default: "300MiB" },
    policy: { type: "string" },
    attention: { type: "string", default: "eager" },
    alone: { type: "boolean", default: false },
  },
});

const folder = join(packageRoot, "bench-out", "cpu-bench");
const python = join(packageRoot, "bench", ".venv", "bin", "python");
if (process.argv[1] === fileURLToPath(import.meta.url)) await main();

async function main(): Promise<void> {
  const taskFile = prepare();
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

function startPeer(taskFile: string): Promise<Worker> {
  const script = join(packageRoot, "bench", "peers", "official_cpu.py");
  return Worker.start([python, script, taskFile]);
}

/** Writes weights, factors, micro-batch and task; the weights only once. */
function prepare(): string {
  const path = (name: string): string => join(folder, name);
  const config = tinyConfig(MODEL);
  mkdirSync(folder, { recursive: true });
  if (!existsSync(path("base"))) writeTinyCheckpoint(path("base"), MODEL);
  if (!existsSync(path("batch.safetensors"))) writeInputs(path);
  const shards = readdirSync(path("base")).filter((name) => name.endsWith(".safetensors"));
  const task: CpuTask = {
    threads: Number(flags.threads),
    checkpoint: path("base"),
    adapterFolder: path("adapter"),
    ...SAMPLE,
    ...LORA,
    policy: flags.policy === undefined ? plannedPolicy(path("base")) : JSON.parse(flags.policy),
    weights: shards.map((name) => path(join("base", name))),
    adapter: path("adapter/adapter_model.safetensors"),
    batch: path("batch.safetensors"),
    model: {
      ...{ hidden: config.hidden, layers: config.layers, heads: config.heads, kv_heads: config.kvHeads },
      ...{ head_dim: config.headDim, ffn: config.ffn, vocab: config.vocab },
      ...{ eps: config.rmsEps, theta: config.ropeTheta, plora: config.plora, attention: flags.attention },
    },
  };
  writeFileSync(path("task.json"), JSON.stringify(task));
  return path("task.json");
}

/**
 * Returns the fastest policy that fits the bytes beside the weights and uses no other pool: both are this
 * machine's RAM.
 */
function plannedPolicy(base: string): Policy {
  const planner = withOpened(base, (opened) => plannerOf(opened, { dtype: "bfloat16", device: "cpu" }));
  const batch = exactShape(sampleBatch(noiseImage(SAMPLE.grid, SAMPLE.grid), SAMPLE));
  const workload: SizedWorkload = {
    ...{ rank: LORA.rank, dropout: 0, targets: OFFICIAL_TARGETS, batch },
    ...{ maxLength: batch.rows[0]!, pictureLimit: SAMPLE.grid ** 2, imageShare: undefined, batchSize: 1 },
  };
  const unlimited = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };
  const { weights } = planner.plan(workload, DEFAULT_POLICY, unlimited).run.device.categories;
  const { policy, run, fits } = fastestPlan(planner, workload, {
    budgetBytes: weights + parseBytes(flags.memory),
    hostBytes: 0,
  });
  if (!fits) throw new Error(`nothing fits ${flags.memory} beside the weights`);
  console.log(
    `planned: ${formatBytes(run.budgetedBytes - weights)} beside the weights, ${JSON.stringify(policy)}`,
  );
  return policy;
}

/** Factors with a B that is not zero, so that every gradient is lively, and the micro-batch. */
function writeInputs(path: (name: string) => string): void {
  const model = loadModel(path("base"), { dtype: "bfloat16", device: "cpu" });
  const lora = createLora(model.config, {
    ...{ rank: LORA.rank, alpha: LORA.alpha, dropout: 0, rslora: false, targets: OFFICIAL_TARGETS, seed: 3 },
    device: "cpu",
    gradients: "none",
  });
  scope(() => {
    using generator = createGenerator(4n, "cpu");
    for (const { b } of lora.modules.values()) b.value.normal_({ std: 0.02, generator });
  });
  writeAdapter(path("adapter"), adapterFromLora(lora, "bench"));
  disposeLora(lora);
  writeBatch(path("batch.safetensors"), model, sampleBatch(noiseImage(SAMPLE.grid, SAMPLE.grid), SAMPLE));
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
