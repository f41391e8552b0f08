/**
 * Every configuration on a card beside the official way, and tables in Markdown: `run.js [--device cuda:0] [--all] [--only TEXT]`, in a
 * checkout from bench-out/bench/gpu, from a bundle as `./lorafit --node bench/gpu/run.js`. `--memory` asks for peaks alone, also under
 * the smallest cap that fits, which a phantom card tells as well. `--device cpu --size tiny` runs the same logic on a machine without a
 * card. A card's tables are left in bench/results/DATE-CARD.md unless --out names another file. The peers need a Python with torch,
 * peft, transformers and safetensors (--python), and for their kernels liger-kernel, bitsandbytes and unsloth.
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { writeSafetensors } from "../../src/checkpoint/safetensors.ts";
import { loadHdImage } from "../../src/data/image.ts";
import { writePages } from "../../src/data/pages.ts";
import { messageOf } from "../../src/errors.ts";
import { fromArray } from "../../src/torch/create.ts";
import { cardInfo, libtorchVersion } from "../../src/torch/device.ts";
import { driverVersion } from "../../src/torch/driver.ts";
import { packageRoot } from "../../src/torch/libtorch.ts";
import { scope } from "../../src/torch/tensor.ts";
import { Worker } from "../workers.ts";
import { imageMask, sampleBatch } from "../workload.ts";
import { figuresOf } from "./figures.ts";
import { CAPS_GIB, casesOf, type GpuCase, memoryCases, PAGE, SIZES, type Size, TEXT } from "./matrix.ts";
import { type PlannedPeaks, tightestCap } from "./planned.ts";
import {
  memoryTable,
  type Outcome,
  type Row,
  SIDES,
  type Side,
  speedTable,
  summaryOf,
  titleOf,
} from "./tables.ts";
import type { GpuReport, GpuTask } from "./task.ts";

const GIB = 2 ** 30;

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "cuda:0" },
    size: { type: "string", default: "7b" },
    steps: { type: "string", default: "10" },
    all: { type: "boolean", default: false },
    memory: { type: "boolean", default: false },
    sides: { type: "string", default: SIDES.join(",") },
    only: { type: "string", default: "" },
    python: { type: "string" },
    out: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

if (flags.help) {
  console.log(
    "run.js [--device cuda:0|cpu] [--size 7b|tiny] [--steps 10] [--all | --memory] [--only TEXT] [--sides lorafit,plain,kernels] [--python FILE] [--out FILE]",
  );
} else await main();

async function main(): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), "lorafit-bench-"));
  try {
    const picture = await page(work);
    const rows: Row[] = [];
    let flopsPerSecond = 0;
    const peers = new Set<string>();
    for (const wanted of wantedCases()) {
      if (!titleOf(wanted).includes(flags.only)) continue;
      const task = await writeTask(work, wanted, picture);
      const row: Row = { case: wanted, outcomes: {} };
      for (const side of SIDES.filter((each) => flags.sides.split(",").includes(each))) {
        const { outcome, facts } = await measure(work, task, side);
        if (outcome) row.outcomes[side] = outcome;
        flopsPerSecond ||= facts?.matrixFlopsPerSecond ?? 0;
        row.planned ??= facts?.planned;
        if (side !== "lorafit" && facts) peers.add(facts.name);
        if (outcome) console.error(`${titleOf(wanted)}  ${side}  ${summaryOf(outcome)}`);
      }
      rows.push(row);
    }
    const speed = flags.memory ? [] : [speedTable(rows, flopsPerSecond)];
    const report = [`${today()}, ${machineOf([...peers])}.\n`, ...speed, memoryTable(rows)].join("\n");
    console.log(report);
    const out = flags.out ?? resultFile();
    if (!out) return;
    mkdirSync(dirname(out), { recursive: true });
    writeFileSync(out, report);
  } finally {
    rmSync(work, { recursive: true });
  }
}

function wantedCases(): GpuCase[] {
  const { device } = flags;
  const size = flags.size as Size;
  if (!flags.memory) return casesOf(size, flags.all);
  const cases = memoryCases(size);
  if (device === "cpu") return cases;
  const largest = Math.max(...cases.map(({ hdNum }) => hdNum));
  const capsBytes = CAPS_GIB.map((gib) => gib * GIB);
  const capped = cases
    .filter(({ hdNum }) => hdNum === largest)
    .flatMap((each) => {
      const capBytes = tightestCap(each, device as `cuda:${number}`, capsBytes);
      return capBytes === undefined ? [] : [{ ...each, capBytes }];
    });
  return [...cases, ...capped];
}

/** One synthetic page as a file. */
async function page(work: string): Promise<string> {
  await writePages(join(work, "pages"), { count: 1, ...PAGE });
  const file = join(work, "pages", "images", "page-0001.png");
  if (!existsSync(file)) throw new Error(`the page is not where it was expected: ${file}`);
  return file;
}

async function writeTask(work: string, wanted: GpuCase, picture: string): Promise<GpuTask> {
  const config = SIZES[wanted.size].model;
  const image = await loadHdImage(picture, wanted.hdNum, "lorafit");
  const batch = sampleBatch(image, { ...TEXT, vocab: config.vocab });
  const path = join(work, "batch.safetensors");
  const T = batch.inputIds.length;
  scope(() =>
    writeSafetensors(path, [
      ["pixels", fromArray(image.pixels, [336 * image.rows, 336 * image.cols, 3])],
      ["global_view", fromArray(image.globalView, [3, 336, 336])],
      ["ids", fromArray(batch.inputIds, [T])],
      ["targets", fromArray(batch.targets, [T])],
      ["image_mask", fromArray(imageMask(batch), [T])],
    ]),
  );
  return {
    case: wanted,
    device: flags.device as GpuTask["device"],
    picture,
    batch: path,
    model: {
      ...{ hidden: config.hidden, layers: config.layers, heads: config.heads, kv_heads: config.kvHeads },
      ...{ head_dim: config.headDim, ffn: config.ffn, vocab: config.vocab },
      ...{ eps: config.rmsEps, theta: config.ropeTheta, plora: config.plora },
    },
    vision: config.vision,
    variant: "plain",
  };
}

/** A process of its own for each, so that none sees another's memory. No outcome where a side has nothing to say of a case. */
async function measure(
  work: string,
  task: GpuTask,
  side: Side,
): Promise<{ outcome?: Outcome; facts?: Facts }> {
  if (!has(side, task.case)) return {};
  const file = join(work, "task.json");
  writeFileSync(file, JSON.stringify({ ...task, variant: side === "kernels" ? "kernels" : "plain" }));
  let worker: Worker<GpuReport> | undefined;
  try {
    worker = await Worker.start<GpuReport>(commandOf(side, file), {});
    const facts = worker.facts as Facts;
    if (facts.skipped) return { outcome: { failed: facts.skipped } };
    const reports: GpuReport[] = [];
    for (let step = 0; step <= Number(flags.steps); step++) reports.push(await worker.step());
    return { outcome: figuresOf(reports), facts };
  } catch (error) {
    return { outcome: { failed: messageOf(error) } };
  } finally {
    worker?.stop();
  }
}

/** Whether a side can do a case: peers keep all weights on the card, in bf16 or, with bitsandbytes, in NF4. */
function has(side: Side, { base, placement, capBytes }: GpuCase): boolean {
  if (side === "lorafit") return true;
  if (side === "plain") return base === "bf16" && placement === "resident" && !capBytes;
  return ["bf16", "nf4"].includes(base) && ["resident", "offloaded"].includes(placement) && !capBytes;
}

interface Facts {
  /** A peer's has its versions. */
  name: string;
  skipped?: string;
  matrixFlopsPerSecond?: number;
  planned?: PlannedPeaks;
}

function commandOf(side: Side, task: string): [string, ...string[]] {
  if (side === "lorafit") return [process.execPath, join(import.meta.dirname, "ours.js"), task];
  const own = join(packageRoot, "bench", ".venv", "bin", "python");
  const python = flags.python ?? (existsSync(own) ? own : "python3");
  return [python, join(packageRoot, "bench", "peers", "official_gpu.py"), task];
}

/** Undefined without a card: such tables are not kept. */
function resultFile(): string | undefined {
  if (flags.device === "cpu") return undefined;
  const { name } = cardInfo(flags.device as `cuda:${number}`);
  const card = name.toLowerCase().replace(/[^a-z0-9]+/g, "-");
  return join(packageRoot, "bench", "results", `${today()}-${card}.md`);
}

function today(): string {
  return new Date().toISOString().slice(0, 10);
}

/** Card and driver, and the versions of what runs on it. */
function machineOf(peers: readonly string[]): string {
  const card =
    flags.device === "cpu"
      ? "cpu"
      : `${cardInfo(flags.device as `cuda:${number}`).name}, driver ${driverVersion()}`;
  return `${card}; Node ${process.versions.node}, libtorch ${libtorchVersion()}; beside it ${peers.join("; ") || "no peer"}`;
}
