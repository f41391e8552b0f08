/** Runs of a very small model on a few samples, for tests of what can happen to a run. */
import { createHash } from "node:crypto";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import sharp from "sharp";
import { afterAll } from "vitest";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { FactStream } from "../../src/train/facts/factStream.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { type TrainHooks, type TrainResult, train } from "../../src/train/loop/trainer.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { lcg } from "../helpers/randomModel.ts";

export const SIZES = {
  ...{ hidden: 32, layers: 2, heads: 4, kvHeads: 2, ffn: 48, vocab: 97, ploraRank: 4 },
  ...{ visionHidden: 16, visionLayers: 1, visionHeads: 2, visionFfn: 24 },
};
/** Text tokens of each sample. Samples with a picture have 313 more. */
const TEXT_TOKENS = [9, 30, 14, 25, 7, 40, 18];
const WITH_PICTURE = [2, 5];

export interface Workplace {
  folder: string;
  /** The checkpoint's folder. */
  model: string;
  pictures: string[];
  /** Options of every run here: samples in file order, one micro-batch a step. */
  input: TrainInput & { data: string };
}

/**
 * Creates a folder with a checkpoint and seven samples, two of them with pictures. The folder is removed
 * after the file's tests.
 */
export async function makeWorkplace(): Promise<Workplace> {
  const folder = mkdtempSync(join(tmpdir(), "faults-"));
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  process.env.XDG_CACHE_HOME = join(folder, "cache"); // measurements by other tests must not change a policy
  const model = join(folder, "model");
  writeTinyCheckpoint(model, { ...TINY, ...SIZES });
  const random = lcg(5);
  const lines = TEXT_TOKENS.map((count, sample) => {
    const ids = Array.from({ length: count }, () => 3 + Math.floor(random() * (SIZES.vocab - 3)));
    const picture = WITH_PICTURE.includes(sample);
    const input_ids = picture ? [1, -200, ...ids] : [1, ...ids];
    const labels = input_ids.map((id, at) => (at < input_ids.length / 2 ? -100 : id));
    return { input_ids, labels, ...(picture && { images: [`${sample}.png`], hd_num: 1 }) };
  });
  const data = join(folder, "data.jsonl");
  writeFileSync(data, lines.map((line) => `${JSON.stringify(line)}\n`).join(""));
  const pictures = WITH_PICTURE.map((sample) => join(folder, `${sample}.png`));
  for (const [index, path] of pictures.entries()) {
    const background = { r: 200, g: 90 * index, b: 40 };
    await sharp({ create: { width: 90, height: 60, channels: 3, background } }).toFile(path);
  }
  return {
    folder,
    model,
    pictures,
    input: {
      ...{ model, data, lora_r: 2, lora_alpha: 4, lora_dropout: 0, learning_rate: 1e-2, warmup_steps: 0 },
      ...{ shuffle: false, gradient_accumulation: 1, save_every: 1000, device: "cpu", threads: 1 },
    },
  };
}

interface RunHooks extends Pick<TrainHooks, "nowMs"> {
  stopAfterMicroBatches?: number;
  onFact?: (fact: RunFact) => void;
}

/** Runs to the end or to an error. Returns the outcome and all reported facts. */
export async function runWith(
  input: TrainInput,
  {
    stopAfterMicroBatches = Number.POSITIVE_INFINITY,
    onFact = (_: RunFact): void => {},
    ...hooks
  }: RunHooks = {},
): Promise<{ events: RunFact[] } & ({ result: TrainResult } | { error: unknown })> {
  const events: RunFact[] = [];
  const interruption = new AbortController();
  let microBatches = 0;
  const hear = (event: RunFact): void => {
    events.push(event);
    onFact(event);
    if (event.fact === "microBatch" && ++microBatches === stopAfterMicroBatches) interruption.abort();
  };
  try {
    return {
      events,
      result: await train(input, { ...hooks, signal: interruption.signal, sinks: [{ take: hear }] }),
    };
  } catch (error) {
    return { events, error };
  }
}

/** Returns a stream that adds notices to a list. */
export function factsInto(notices: string[]): FactStream {
  return new FactStream([{ take: (fact) => void notices.push(...noticesOf([fact])) }]);
}

export function noticesOf(events: readonly RunFact[]): string[] {
  return events.flatMap((event) => (event.fact === "notice" || event.fact === "leaner" ? [event.text] : []));
}

/**
 * Returns everything in a run's result that must not depend on when it was stopped: hashes of the adapters,
 * and the numbers in its logs.
 */
export function resultOf(output: string): Record<string, unknown> {
  const adapters = ["adapter", "best"].flatMap((name) => hashesBelow(join(output, name)));
  return {
    adapters,
    steps: numbersOf(join(output, "steps.jsonl")),
    evals: numbersOf(join(output, "evals.jsonl")),
  };
}

export function hashesBelow(folder: string): [file: string, sha256: string][] {
  let names: string[] = [];
  try {
    names = readdirSync(folder).sort();
  } catch {}
  const hashOf = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex");
  return names.map((name) => [name, hashOf(join(folder, name))]);
}

const OF_CLOCK_OR_PROCESS = [
  ...["stepMs", "tokensPerSecond", "dataWaitRatio", "slowest", "peakBytes", "peakByCategory"],
];

/** Reads records without the fields that depend on the clock or on the process's history. */
function numbersOf(path: string): object[] {
  const lines = readFileSync(path, "utf8").split("\n").filter(Boolean);
  return lines.map((line) => {
    const record = JSON.parse(line);
    for (const field of OF_CLOCK_OR_PROCESS) delete record[field];
    return record;
  });
}
