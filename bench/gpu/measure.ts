/**
 * One measurement of the GPU bench. Each side of each case has its own process, so none sees another's
 * memory.
 */
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { loadHdImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import { messageOf } from "../../src/errors.ts";
import { writePages } from "../../src/pages/writePages.ts";
import { fromArray } from "../../src/torch/create.ts";
import { packageRoot } from "../../src/torch/install/libtorch.ts";
import { scope } from "../../src/torch/tensor.ts";
import { Worker } from "../workers.ts";
import { imageMask, sampleBatch } from "../workload.ts";
import { figuresOf } from "./figures.ts";
import type { Facts } from "./journal.ts";
import { type GpuCase, PAGE, SIZES, sampleSizeOf } from "./matrix.ts";
import type { Outcome, Side } from "./tables.ts";
import type { GpuReport, GpuTask } from "./task.ts";

/** Time limit of loading and of each step: a card that hangs must not use up the rest of the time. */
const MOST_ANSWER_MS = 300_000;

/**
 * Returns whether a side can run a case: peers keep all weights on the card, in bf16 or (bitsandbytes) NF4.
 */
export function canDo(side: Side, { base, placement, capBytes }: GpuCase): boolean {
  if (side === "lorafit") return true;
  const isCap = placement === "planned" && capBytes !== undefined;
  if (side === "plain") return base === "bf16" && (placement === "resident" || isCap);
  return ["bf16", "nf4"].includes(base) && (["resident", "offloaded"].includes(placement) || isCap);
}

export interface MeasureOptions {
  device: GpuTask["device"];
  python: string | undefined;
  /** Timed ones, after one that warms up. */
  steps: number;
}

export class Measure {
  readonly #folder: string;
  readonly #options: MeasureOptions;
  #picture: string | undefined;

  /** `folder` is for its files. */
  constructor(folder: string, options: MeasureOptions) {
    this.#folder = folder;
    this.#options = options;
  }

  async of(wanted: GpuCase, side: Side): Promise<{ outcome: Outcome; facts?: Facts }> {
    const file = join(this.#folder, "task.json");
    writeFileSync(file, JSON.stringify(await this.#task(wanted, side)));
    let worker: Worker<GpuReport> | undefined;
    try {
      worker = await Worker.start<GpuReport>(this.#command(side, file), MOST_ANSWER_MS);
      const facts = worker.facts as Facts;
      if (facts.skipped) return { outcome: { failed: facts.skipped } };
      const reports: GpuReport[] = [];
      for (let step = 0; step <= this.#options.steps; step++) reports.push(await worker.step());
      return { outcome: figuresOf(reports), facts };
    } catch (error) {
      return { outcome: { failed: messageOf(error) } };
    } finally {
      await worker?.stop();
    }
  }

  async #task(wanted: GpuCase, side: Side): Promise<GpuTask> {
    this.#picture ??= await writePage(this.#folder);
    const batch = join(this.#folder, "batch.safetensors");
    if (side !== "lorafit") await writePeerBatch(batch, wanted, this.#picture);
    const config = SIZES[wanted.size].model;
    return {
      ...{ case: wanted, device: this.#options.device, picture: this.#picture, batch },
      model: {
        ...{ hidden: config.hidden, layers: config.layers, heads: config.heads, kv_heads: config.kvHeads },
        ...{ head_dim: config.headDim, ffn: config.ffn, vocab: config.vocab },
        ...{ eps: config.rmsEps, theta: config.ropeTheta, plora: config.plora },
      },
      vision: config.vision,
      variant: side === "kernels" ? "kernels" : "plain",
    };
  }

  #command(side: Side, task: string): [string, ...string[]] {
    if (side === "lorafit") return [process.execPath, join(import.meta.dirname, "ours.js"), task];
    const own = join(packageRoot, "bench", ".venv", "bin", "python");
    const python = this.#options.python ?? (existsSync(own) ? own : "python3");
    return [python, join(packageRoot, "bench", "peers", "official_gpu.py"), task];
  }
}

/** One synthetic page as a file. */
async function writePage(folder: string): Promise<string> {
  await writePages(join(folder, "pages"), { count: 1, ...PAGE });
  const file = join(folder, "pages", "images", "page-0001.png");
  if (!existsSync(file)) throw new Error(`the page is not where it was expected: ${file}`);
  return file;
}

/** Returns the part of a case's sample that a peer receives. */
async function writePeerBatch(path: string, wanted: GpuCase, picture: string): Promise<void> {
  const image = await loadHdImage(picture, wanted.hdNum, "lorafit");
  const batch = sampleBatch(image, sampleSizeOf(wanted));
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
}
