/**
 * Measures answers of the serving engine on the CPU beside transformers-style generation in plain PyTorch
 * (`make bench-serve`): tokens per second of 1, 4 and 16 requests that come at once, each with a picture of
 * 1,489 tokens. Both sides have equal weights and prompts. PyTorch answers one after the other, as the
 * official chat() does, and also in one batch. Prints `serve ratio R` for each, ours to theirs.
 */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import sharp from "sharp";
import { writeSafetensors } from "../src/checkpoint/files/safetensors.ts";
import { openImagePool } from "../src/data/pictures/imagePool.ts";
import { IMAGE_SLOT } from "../src/data/samples/sample.ts";
import { layoutBatch } from "../src/data/stream/batches.ts";
import { START } from "../src/data/stream/packing.ts";
import { pictureRulesOf } from "../src/models/families.ts";
import { disposeModel, loadModel } from "../src/models/weights.ts";
import { TINY, tinyConfig, writeTinyCheckpoint } from "../src/models/xcomposer2/tiny.ts";
import { openEngine } from "../src/serving/openEngine.ts";
import type { Engine, ServeRequest } from "../src/serving/types.ts";
import { fromArray } from "../src/torch/create.ts";
import { packageRoot } from "../src/torch/install/libtorch.ts";
import { scope } from "../src/torch/tensor.ts";
import { Worker } from "./workers.ts";
import { embedded, imageMask } from "./workload.ts";

/** A third of the official width, the vocabulary and PLoRA ranks; a small tower, for the peer has none. */
const MODEL = {
  ...TINY,
  ...{ hidden: 1024, layers: 12, heads: 8, kvHeads: 2, ffn: 3584, vocab: 92_544, ploraRank: 256 },
  ...{ visionHidden: 64, visionLayers: 1, visionHeads: 2, visionFfn: 128 },
  dtype: "bfloat16",
} as const;
/** Tiles of a picture, 3 x 3, with 1,489 tokens. */
const TILES = 9;
const SIDE_PIXELS = 3 * 336;
const SOURCE = { file: "bench", index: 0 };

const { values: flags } = parseArgs({
  options: {
    sequences: { type: "string", default: "1,4,16" },
    text: { type: "string", default: "40" },
    tokens: { type: "string", default: "128" },
    threads: { type: "string", default: "2" },
    python: { type: "string", default: join(packageRoot, "bench", ".venv", "bin", "python") },
    alone: { type: "boolean", default: false },
  },
});
const [textTokens, newTokens, threads] = [flags.text, flags.tokens, flags.threads].map(Number) as [
  number,
  number,
  number,
];
const sizes = flags.sequences.split(",").map(Number);
const folder = join(packageRoot, "bench-out", "serve-bench");
const base = join(folder, "base");

interface Prompt {
  inputIds: Int32Array;
  images: string[];
}

/** A peer's report of a run. */
interface PeerReport {
  seconds: number;
  cpuSeconds: number;
  promptSeconds: number;
  ids: number[][];
}

/** A run of one side. */
interface Measured {
  seconds: number;
  /** Seconds of the processor, of all threads: what other processes take does not count. */
  cpuSeconds: number;
  /** Seconds until every request had its first token. */
  firstSeconds: number;
  ids: number[][];
}

await main();

async function main(): Promise<void> {
  mkdirSync(folder, { recursive: true });
  if (!existsSync(base)) writeTinyCheckpoint(base, MODEL);
  const most = Math.max(...sizes);
  const pictures = await Promise.all(Array.from({ length: most }, (_, seed) => noisePicture(seed)));
  const prompts = pictures.map((picture, index) => promptOf(picture, index));
  const same = prompts.map((_, index) => promptOf(pictures[0]!, index));
  const peer = flags.alone ? undefined : await startPeer(await writePrompts(prompts));
  console.log(`${newTokens} tokens of each answer, load ${loadavg()[0]!.toFixed(1)} at the start`);
  await measure(prompts.slice(0, 1)); // warm-up
  await peer?.step({ prompts: [promptFile(0)], newTokens: 4, together: false });
  for (const count of sizes) {
    const different = await measure(prompts.slice(0, count));
    const shared = count > 1 ? await measure(same.slice(0, count)) : undefined;
    report(count, "lorafit", different);
    if (shared) report(count, "lorafit, the same picture", shared);
    for (const together of peer ? [false, ...(count > 1 ? [true] : [])] : []) {
      const theirs = await peerRun(peer!, count, together);
      report(count, `${peer!.name}, ${together ? "one batch" : "one by one"}`, theirs);
      const way = together ? "one batch" : "one by one";
      for (const [what, ours] of Object.entries({ "": different, ", same picture": shared })) {
        if (!ours) continue;
        const ofCpu = (theirs.cpuSeconds / ours.cpuSeconds).toFixed(2);
        const ratio = (theirs.seconds / ours.seconds).toFixed(2);
        console.log(`serve ratio ${count} ${way}${what} ${ratio} (of processor time ${ofCpu})`);
      }
      console.log(`equal tokens ${(100 * equalShare(different.ids, theirs.ids)).toFixed(0)} %`);
    }
  }
  console.log(`load ${loadavg()[0]!.toFixed(1)} at the end`);
  await peer?.stop();
}

function report(count: number, name: string, { seconds, cpuSeconds, firstSeconds }: Measured): void {
  const rate = (count * newTokens) / seconds;
  const later = (count * (newTokens - 1)) / (seconds - firstSeconds);
  console.log(
    `${String(count).padStart(2)} x ${name.padEnd(34)} ${rate.toFixed(1).padStart(7)} tokens/s` +
      `  (${seconds.toFixed(1)} s, processor ${cpuSeconds.toFixed(1)} s, prompts ${firstSeconds.toFixed(1)} s, after them ${later.toFixed(1)} tokens/s)`,
  );
}

/** Opens an engine, with nothing in its caches, and has it answer the prompts at once. */
async function measure(prompts: readonly Prompt[]): Promise<Measured> {
  const engine = await openEngine({
    ...{ model: base, device: "cpu", dtype: "bf16", threads, maxAdapters: 0 },
    ...{ maxSequences: Math.max(...sizes), maxTokens: 2048 },
  });
  const began = performance.now();
  const before = process.cpuUsage();
  const answers = await Promise.all(prompts.map((prompt) => answerOf(engine, prompt)));
  const seconds = (performance.now() - began) / 1000;
  const { user, system } = process.cpuUsage(before);
  await engine.close();
  const firstSeconds = (Math.max(...answers.map(({ firstMs }) => firstMs)) - began) / 1000;
  return { seconds, cpuSeconds: (user + system) / 1e6, firstSeconds, ids: answers.map(({ ids }) => ids) };
}

async function answerOf(engine: Engine, prompt: Prompt): Promise<{ ids: number[]; firstMs: number }> {
  const request: ServeRequest = {
    prompt,
    limits: { hd_num: TILES },
    maxNewTokens: newTokens,
    ignoreEos: true,
  };
  const { accepted, refusal } = await engine.submit(request);
  if (refusal) throw refusal.error;
  const ids: number[] = [];
  let firstMs = Number.NaN;
  for await (const event of accepted.events) {
    if (event.kind === "failed") throw event.error;
    if (event.kind === "piece") ids.push(...event.ids);
    if (ids.length === 1) firstMs = performance.now();
  }
  return { ids, firstMs };
}

async function peerRun(peer: Worker<PeerReport>, count: number, together: boolean): Promise<Measured> {
  const prompts = Array.from({ length: count }, (_, index) => promptFile(index));
  const { promptSeconds, ...run } = await peer.step({ prompts, newTokens, together });
  return { ...run, firstSeconds: promptSeconds };
}

/** Share of tokens before the first that differs. Rounding in bfloat16 decides between close ones. */
function equalShare(ours: readonly number[][], theirs: readonly number[][]): number {
  const equal = ours.map((ids, index) => {
    const at = ids.findIndex((id, token) => id !== theirs[index]![token]);
    return at < 0 ? ids.length : at;
  });
  return equal.reduce((sum, tokens) => sum + tokens, 0) / ours.reduce((sum, ids) => sum + ids.length, 0);
}

function promptOf(picture: string, seed: number): Prompt {
  const random = lcg(seed + 100);
  const text = Array.from({ length: textTokens - 1 }, () => Math.floor(random() * MODEL.vocab));
  return { inputIds: Int32Array.of(1, IMAGE_SLOT, ...text), images: [picture] };
}

async function noisePicture(seed: number): Promise<string> {
  const random = lcg(seed);
  const data = Buffer.from(
    Uint8Array.from({ length: SIDE_PIXELS ** 2 * 3 }, () => Math.floor(random() * 256)),
  );
  const raw = { width: SIDE_PIXELS, height: SIDE_PIXELS, channels: 3 } as const;
  const png = await sharp(data, { raw }).png().toBuffer();
  return `data:image/png;base64,${png.toString("base64")}`;
}

function promptFile(index: number): string {
  return join(folder, `prompt-${index}.safetensors`);
}

/** Writes the prompts as the peer reads them, as rows of the decoder's input, and its task. */
async function writePrompts(prompts: readonly Prompt[]): Promise<string> {
  const model = loadModel(base, { dtype: "bfloat16", device: "cpu" });
  const loader = openImagePool({ rules: pictureRulesOf(model.config), compat: "lorafit" });
  for (const [index, { inputIds, images }] of prompts.entries()) {
    const image = await loader.load(images[0]!, TILES);
    const sample = { inputIds, labels: new Int32Array(inputIds.length), images: [], source: SOURCE };
    const batch = { ...layoutBatch([{ sample, images: [image] }]), epoch: 0, position: START };
    scope(() => {
      const mask = imageMask(batch);
      writeSafetensors(promptFile(index), [
        ["embeddings", embedded(model, batch)],
        ["image_mask", fromArray(mask, [mask.length])],
      ]);
    });
  }
  await loader.close();
  disposeModel(model);
  const { hidden, layers, heads, kvHeads, headDim, ffn, vocab, rmsEps, ropeTheta, plora } = tinyConfig(MODEL);
  const task = {
    threads,
    weights: readdirSync(base)
      .filter((name) => name.endsWith(".safetensors"))
      .map((name) => join(base, name)),
    model: {
      ...{ hidden, layers, heads, kv_heads: kvHeads, head_dim: headDim, ffn, vocab, eps: rmsEps },
      ...{ theta: ropeTheta, plora },
    },
  };
  const file = join(folder, "task.json");
  writeFileSync(file, JSON.stringify(task));
  return file;
}

function startPeer(taskFile: string): Promise<Worker<PeerReport>> {
  const script = join(packageRoot, "bench", "peers", "serve_cpu.py");
  return Worker.start<PeerReport>([flags.python, script, taskFile]);
}

/** Numbers in 0..1, the same for the same seed. */
function lcg(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}
