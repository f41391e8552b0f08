/**
 * Every configuration on a card beside the official way, and a table in Markdown: `run.js [--device cuda:0] [--all] [--only TEXT]`, in a
 * checkout from bench-out/bench/gpu, from a bundle as `./lorafit --node bench/gpu/run.js`. `--device cpu --size tiny` runs the same logic
 * on a machine without a card. A card's table is left in bench/results/DATE-CARD.md unless --out names another file. The peers need a Python with torch, peft, transformers and safetensors (--python).
 */
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { writeSafetensors } from "../../src/checkpoint/safetensors.ts";
import { loadHdImage } from "../../src/data/image.ts";
import { writePages } from "../../src/data/pages.ts";
import { formatBytes, messageOf } from "../../src/errors.ts";
import { fromArray } from "../../src/torch/create.ts";
import { cardInfo, libtorchVersion } from "../../src/torch/device.ts";
import { driverVersion } from "../../src/torch/driver.ts";
import { packageRoot } from "../../src/torch/libtorch.ts";
import { scope } from "../../src/torch/tensor.ts";
import { Worker } from "../workers.ts";
import { imageMask, sampleBatch } from "../workload.ts";
import { type Figures, figuresOf, rateShare } from "./figures.ts";
import {
  casesOf,
  type GpuCase,
  necessaryFlops,
  PAGE,
  PLACEMENTS,
  SIZES,
  type Size,
  TEXT,
  tokensOf,
} from "./matrix.ts";
import type { GpuReport, GpuTask } from "./task.ts";

const VARIANTS = ["lorafit", "plain", "kernels"] as const;
type Variant = (typeof VARIANTS)[number];

/** Of one configuration and side: what it took, or why there is nothing. */
type Outcome = Figures | { failed: string };

interface Row {
  case: GpuCase;
  outcomes: Partial<Record<Variant, Outcome>>;
  plannedPeakBytes?: number | undefined;
}

const { values: flags } = parseArgs({
  options: {
    device: { type: "string", default: "cuda:0" },
    size: { type: "string", default: "7b" },
    steps: { type: "string", default: "10" },
    all: { type: "boolean", default: false },
    only: { type: "string", default: "" },
    python: { type: "string" },
    out: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

if (flags.help) {
  console.log(
    "run.js [--device cuda:0|cpu] [--size 7b|tiny] [--steps 10] [--all] [--only TEXT] [--python FILE] [--out FILE]",
  );
} else await main();

async function main(): Promise<void> {
  const work = mkdtempSync(join(tmpdir(), "lorafit-bench-"));
  try {
    const picture = await page(work);
    const rows: Row[] = [];
    let flopsPerSecond = 0;
    let peer: string | undefined;
    for (const wanted of casesOf(flags.size as Size, flags.all)) {
      if (!titleOf(wanted).includes(flags.only)) continue;
      const task = await writeTask(work, wanted, picture);
      const row: Row = { case: wanted, outcomes: {} };
      for (const variant of VARIANTS) {
        const { outcome, facts } = await measure(work, task, variant);
        if (outcome) row.outcomes[variant] = outcome;
        flopsPerSecond ||= facts?.matrixFlopsPerSecond ?? 0;
        row.plannedPeakBytes ??= facts?.plannedPeakBytes;
        if (variant === "plain") peer ??= facts?.name;
        if (outcome) console.error(`${titleOf(wanted)}  ${variant}  ${cellOf(outcome)}`);
      }
      rows.push(row);
    }
    const report = tableOf(rows, flopsPerSecond, peer);
    console.log(report);
    const out = flags.out ?? resultFile();
    if (!out) return;
    mkdirSync(dirname(out), { recursive: true });
    writeFileSync(out, report);
  } finally {
    rmSync(work, { recursive: true });
  }
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
  variant: Variant,
): Promise<{ outcome?: Outcome; facts?: Facts }> {
  const { base, placement } = task.case;
  if (variant === "plain" && (base !== "bf16" || placement !== "resident")) return {};
  if (variant === "kernels" && (base === "fp8" || PLACEMENTS[placement].boundaryAhead)) return {};
  const file = join(work, "task.json");
  writeFileSync(file, JSON.stringify({ ...task, variant: variant === "kernels" ? "kernels" : "plain" }));
  let worker: Worker<GpuReport> | undefined;
  try {
    worker = await Worker.start<GpuReport>(commandOf(variant, file), {});
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

interface Facts {
  /** A peer's has its versions. */
  name: string;
  skipped?: string;
  matrixFlopsPerSecond?: number;
  plannedPeakBytes?: number;
}

function commandOf(variant: Variant, task: string): [string, ...string[]] {
  if (variant === "lorafit") return [process.execPath, join(import.meta.dirname, "ours.js"), task];
  const own = join(packageRoot, "bench", ".venv", "bin", "python");
  const python = flags.python ?? (existsSync(own) ? own : "python3");
  return [python, join(packageRoot, "bench", "peers", "official_gpu.py"), task];
}

function titleOf({ hdNum, rank, base, placement, capBytes }: GpuCase): string {
  const cap = capBytes ? `, cap ${formatBytes(capBytes)}` : "";
  const { text, image } = tokensOf(hdNum);
  return `hd_num ${hdNum} (${text + image} tokens), r ${rank}, ${base}, ${placement}${cap}`;
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
function machineOf(peer: string | undefined): string {
  const card =
    flags.device === "cpu"
      ? "cpu"
      : `${cardInfo(flags.device as `cuda:${number}`).name}, driver ${driverVersion()}`;
  return `${card}; Node ${process.versions.node}, libtorch ${libtorchVersion()}; beside it ${peer ?? "no peer"}`;
}

function tableOf(rows: Row[], flopsPerSecond: number, peer: string | undefined): string {
  const lines = rows.map(({ case: wanted, outcomes, plannedPeakBytes }) => {
    const [ours, ...peers] = VARIANTS.map((variant) => cellOf(outcomes[variant]));
    const planned = plannedPeakBytes === undefined ? "-" : formatBytes(plannedPeakBytes);
    const cells = [ours, planned, ...peers];
    return `| ${[titleOf(wanted), ...cells, ...sharesOf(wanted, outcomes.lorafit, flopsPerSecond)].join(" | ")} |`;
  });
  return [
    `${today()}, ${machineOf(peer)}; a bf16 product runs at ` +
      `${(flopsPerSecond / 1e12).toFixed(1)} TFLOP/s. Seconds a step and peak memory, weights included; the share is of that rate, ` +
      "counted on the FLOPs that the decoder cannot do without. The columns from there on are lorafit's: the part of the copies' time in " +
      "which the computing did not wait for them, the part of a step in which it waits for pictures (aim: at most 1 %), and how much " +
      "longer than the middle one the 95th of a hundred steps takes.",
    "",
    "| case | lorafit | planned | PyTorch, PEFT | with Liger, Unsloth, bitsandbytes | of the matrix rate | tokens/s | copies hidden | data stall | p95 / median |",
    "|---|---|---|---|---|---|---|---|---|---|",
    ...lines,
    "",
  ].join("\n");
}

/** Share of the matrix rate, tokens a second, copies hidden, data stall, steadiness. */
function sharesOf(wanted: GpuCase, ours: Outcome | undefined, flopsPerSecond: number): string[] {
  if (!ours || "failed" in ours) return ["", "", "", "", ""];
  const { seconds, hiddenShare, dataStallShare, steadiness } = ours;
  const { text, image } = tokensOf(wanted.hdNum);
  const percent = (share: number | undefined, digits: number): string =>
    share === undefined ? "-" : `${(100 * share).toFixed(digits)} %`;
  const rate = flopsPerSecond > 0 ? rateShare(necessaryFlops(wanted), seconds, flopsPerSecond) : undefined;
  return [
    percent(rate, 0),
    ((text + image) / seconds).toFixed(0),
    percent(hiddenShare, 0),
    percent(dataStallShare, 1),
    steadiness.toFixed(2),
  ];
}

function cellOf(outcome: Outcome | undefined): string {
  if (!outcome) return "-";
  if ("failed" in outcome) return outcome.failed.split("\n")[0]!;
  return `${outcome.seconds.toFixed(2)} s, ${formatBytes(outcome.peakBytes)}`;
}
