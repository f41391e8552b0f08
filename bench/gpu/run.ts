/**
 * Every configuration on a card beside the official way, and a table in Markdown: `run.js [--device cuda:0] [--all] [--only TEXT]`, in a
 * checkout from bench-out/bench/gpu, from a bundle as `./lorafit --node bench/gpu/run.js`. `--device cpu --size tiny` runs the same logic
 * on a machine without a card. The peers need a Python with torch, peft, transformers and safetensors (--python).
 */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { writeSafetensors } from "../../src/checkpoint/safetensors.ts";
import { loadHdImage } from "../../src/data/image.ts";
import { writePages } from "../../src/data/pages.ts";
import { formatBytes, messageOf } from "../../src/errors.ts";
import { fromArray } from "../../src/torch/create.ts";
import { libtorchVersion } from "../../src/torch/device.ts";
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
    for (const wanted of casesOf(flags.size as Size, flags.all)) {
      if (!titleOf(wanted).includes(flags.only)) continue;
      const task = await writeTask(work, wanted, picture);
      const row: Row = { case: wanted, outcomes: {} };
      for (const variant of VARIANTS) {
        const { outcome, rate } = await measure(work, task, variant);
        if (outcome) row.outcomes[variant] = outcome;
        flopsPerSecond ||= rate ?? 0;
        if (outcome) console.error(`${titleOf(wanted)}  ${variant}  ${cellOf(outcome)}`);
      }
      rows.push(row);
    }
    const report = tableOf(rows, flopsPerSecond);
    console.log(report);
    if (flags.out) writeFileSync(flags.out, report);
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
): Promise<{ outcome?: Outcome; rate?: number | undefined }> {
  const { base, placement } = task.case;
  if (variant === "plain" && (base !== "bf16" || placement !== "resident")) return {};
  if (variant === "kernels" && (base === "fp8" || PLACEMENTS[placement].boundaryAhead)) return {};
  const file = join(work, "task.json");
  writeFileSync(file, JSON.stringify({ ...task, variant: variant === "kernels" ? "kernels" : "plain" }));
  let worker: Worker<GpuReport> | undefined;
  try {
    worker = await Worker.start<GpuReport>(commandOf(variant, file), {});
    const { skipped, matrixFlopsPerSecond } = worker.facts as Facts;
    if (skipped) return { outcome: { failed: skipped } };
    const reports: GpuReport[] = [];
    for (let step = 0; step <= Number(flags.steps); step++) reports.push(await worker.step());
    return { outcome: figuresOf(reports), rate: matrixFlopsPerSecond };
  } catch (error) {
    return { outcome: { failed: messageOf(error) } };
  } finally {
    worker?.stop();
  }
}

interface Facts {
  skipped?: string;
  matrixFlopsPerSecond?: number;
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

function tableOf(rows: Row[], flopsPerSecond: number): string {
  const lines = rows.map(({ case: wanted, outcomes }) => {
    const cells = VARIANTS.map((variant) => cellOf(outcomes[variant]));
    return `| ${[titleOf(wanted), ...cells, ...sharesOf(wanted, outcomes.lorafit, flopsPerSecond)].join(" | ")} |`;
  });
  return [
    `${new Date().toISOString().slice(0, 10)}, ${flags.device}, libtorch ${libtorchVersion()}, a bf16 product runs at ` +
      `${(flopsPerSecond / 1e12).toFixed(1)} TFLOP/s. Seconds a step and peak memory, weights included; the share is of that rate, ` +
      "counted on the FLOPs that the decoder cannot do without. The columns from there on are lorafit's: the part of the copies' time in " +
      "which the computing did not wait for them, the part of a step in which it waits for pictures (aim: at most 1 %), and how much " +
      "longer than the middle one the 95th of a hundred steps takes.",
    "",
    "| case | lorafit | PyTorch, PEFT | with Liger, Unsloth, bitsandbytes | of the matrix rate | tokens/s | copies hidden | data stall | p95 / median |",
    "|---|---|---|---|---|---|---|---|---|",
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
