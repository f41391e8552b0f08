/** The task of both sides of a bench on the CPU: weights, factors, micro-batch and policy, written once. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { writeAdapter } from "../src/checkpoint/adapter/peft.ts";
import { TINY_FAMILIES, type TinyFamilyName } from "../src/cli/commands/tiny.ts";
import type { MicroBatch } from "../src/data/stream/batches.ts";
import { formatBytes, parseBytes } from "../src/errors.ts";
import { officialTargets } from "../src/models/families.ts";
import type { ModelConfig } from "../src/models/family.ts";
import { adapterFromLora, createLora, disposeLora } from "../src/models/lora.ts";
import { loadModel } from "../src/models/weights.ts";
import { TINY } from "../src/models/xcomposer2/tiny.ts";
import { exactShape } from "../src/plan/dryRun/batchShapes.ts";
import type { SizedWorkload } from "../src/plan/planner.ts";
import { fastestPlan } from "../src/plan/search.ts";
import { DEFAULT_POLICY, type Policy } from "../src/step/policy.ts";
import { createGenerator } from "../src/torch/random.ts";
import { scope } from "../src/torch/tensor.ts";
import { plannerOf } from "../src/train/machine/modelPlanner.ts";
import { withOpened } from "../src/train/machine/openedModel.ts";
import { noisePicture, sampleBatch, writeBatch } from "./workload.ts";

/**
 * A third of a 7B model's width, 4KHD's vocabulary and PLoRA ranks; a small tower, because the peer has none.
 */
export const MODEL = {
  ...TINY,
  ...{ hidden: 1024, layers: 12, heads: 8, kvHeads: 2, ffn: 3584, vocab: 92_544, ploraRank: 256 },
  ...{ visionHidden: 64, visionLayers: 1, visionHeads: 2, visionFfn: 128 },
  dtype: "bfloat16",
} as const;
/** A picture of nearly so many tokens: 3 x 3 tiles of 4KHD are 1,489. */
const SAMPLE = { pictureTokens: 1489, textTokens: 300, labelTokens: 150, vocab: MODEL.vocab };
const LORA = { rank: 16, alpha: 16, learningRate: 1e-4 };

/** The task of both workers; paths are absolute. */
export interface CpuTask {
  threads: number;
  checkpoint: string;
  adapterFolder: string;
  pictureTokens: number;
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
  /** Micro-batches of a step, shared out among ranks; 1 if absent. */
  microBatches?: number;
}

export interface TaskOptions {
  threads: number;
  /** Memory beside the weights that the policy is planned for. */
  memory: string;
  /** JSON; undefined: planned. */
  policy?: string | undefined;
  /** Attention of the peer. */
  attention: string;
  microBatches?: number;
  /** Default: xcomposer2-4khd. */
  family?: TinyFamilyName;
}

/** Scripts of the peers, for the families whose steps they can take with rows of pictures that come ready. */
export const PEERS: Partial<Record<TinyFamilyName, string>> = {
  "xcomposer2-4khd": "official_cpu.py",
  qwen2_5_vl: "transformers_cpu.py",
  internvl: "transformers_cpu.py",
};

/** Writes weights, factors, micro-batch and task; the weights only once. */
export function prepareTask(
  folder: string,
  size: Omit<typeof MODEL, "layers"> & { layers: number },
  { threads, memory, policy, attention, microBatches = 1, family = "xcomposer2-4khd" }: TaskOptions,
): string {
  const path = (name: string): string => join(folder, name);
  const { config: configOf, write } = TINY_FAMILIES[family];
  const config: ModelConfig = configOf(size);
  mkdirSync(folder, { recursive: true });
  if (!existsSync(path("base"))) write(path("base"), size, ["bench"]);
  if (!existsSync(path("batch.safetensors"))) writeInputs(path);
  const shards = readdirSync(path("base")).filter((name) => name.endsWith(".safetensors"));
  const task: CpuTask = {
    ...{ threads, microBatches },
    checkpoint: path("base"),
    adapterFolder: path("adapter"),
    ...SAMPLE,
    ...LORA,
    policy: policy === undefined ? plannedPolicy(path("base"), memory) : JSON.parse(policy),
    weights: shards.map((name) => path(join("base", name))),
    adapter: path("adapter/adapter_model.safetensors"),
    batch: path("batch.safetensors"),
    model: {
      ...{ hidden: config.hidden, layers: config.layers, heads: config.heads, kv_heads: config.kvHeads },
      ...{ head_dim: config.headDim, ffn: config.ffn, vocab: config.vocab },
      ...{ eps: config.rmsEps, theta: config.ropeTheta, attention },
      ...("plora" in config && { plora: config.plora }),
    },
  };
  writeFileSync(path("task.json"), JSON.stringify(task));
  return path("task.json");
}

/**
 * Returns the fastest policy that fits the bytes beside the weights and uses no other pool: both are this
 * machine's RAM.
 */
function plannedPolicy(base: string, memory: string): Policy {
  const planner = withOpened(base, (opened) => plannerOf(opened, { dtype: "bfloat16", device: "cpu" }));
  const batch = exactShape(taskBatch(planner.config, SAMPLE));
  const workload: SizedWorkload = {
    ...{ rank: LORA.rank, dropout: 0, targets: officialTargets(planner.config), batch },
    ...{ maxLength: batch.rows[0]!, pictureLimit: 1, imageShare: undefined, batchSize: 1 },
  };
  const unlimited = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };
  const { weights } = planner.plan(workload, DEFAULT_POLICY, unlimited).run.device.categories;
  const { policy, run, fits } = fastestPlan(planner, workload, {
    budgetBytes: weights + parseBytes(memory),
    hostBytes: 0,
  });
  if (!fits) throw new Error(`nothing fits ${memory} beside the weights`);
  console.log(
    `planned: ${formatBytes(run.budgetedBytes - weights)} beside the weights, ${JSON.stringify(policy)}`,
  );
  return policy;
}

/** Returns the micro-batch of a task. */
export function taskBatch(
  config: ModelConfig,
  sample: Omit<typeof SAMPLE, "vocab"> & { vocab: number },
): MicroBatch {
  return sampleBatch(noisePicture(config, sample.pictureTokens), sample);
}

/** Factors with a B that is not zero, so that every gradient is lively, and the micro-batch. */
function writeInputs(path: (name: string) => string): void {
  const model = loadModel(path("base"), { dtype: "bfloat16", device: "cpu" });
  const lora = createLora(model.config, {
    ...{ rank: LORA.rank, alpha: LORA.alpha, dropout: 0, rslora: false, seed: 3 },
    targets: officialTargets(model.config),
    device: "cpu",
    gradients: "none",
  });
  scope(() => {
    using generator = createGenerator(4n, "cpu");
    for (const { b } of lora.modules.values()) b.value.normal_({ std: 0.02, generator });
  });
  writeAdapter(path("adapter"), adapterFromLora(lora, "bench"));
  disposeLora(lora);
  writeBatch(path("batch.safetensors"), model, taskBatch(model.config, SAMPLE));
}
