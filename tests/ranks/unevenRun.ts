/** Runs by ranks whose micro-batches differ: long text beside short, and text alone beside many tiles. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import sharp from "sharp";
import { expect } from "vitest";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { POOLS } from "../../src/torch/device.ts";
import type { StepPeaks } from "../../src/train/facts/peaks.ts";
import type { TrainInput } from "../../src/train/options/options.ts";
import { makeWorkplace, SIZES } from "../faults/trainRun.ts";
import { type RankOptions, runRanks } from "../helpers/ranks/ranks.ts";
import type { RankRun, TrainArgs } from "./train.rank.ts";

const BODY = new URL("./trainMany.rank.ts", import.meta.url);
export const STEPS = 3;
const TEXT_TOKENS = [40, 700, 90, 1800, 300, 25];
const SHARED = { weights: { source: "shared" }, embeddings: "shared", head: "shared", vision: "shared" };
const ON_HOST = { layers: [{ count: 4, boundary: "host" }] };

/** Options that a case adds to the usual ones. */
export type Case = [name: string, options: Partial<TrainInput>];

export interface UnevenRuns {
  cases(ranks: number): Case[];
  /** Trains with each of the options, in the same processes. Returns the peaks of each run, rank and step. */
  peaksOf(
    count: number,
    options: readonly Partial<TrainInput>[],
    running?: RankOptions,
  ): Promise<StepPeaks[][][]>;
}

/** Writes a checkpoint of 6 kv heads, and samples of which every third has a picture of many tiles. */
export async function makeUnevenRuns(): Promise<UnevenRuns> {
  const { folder, input } = await makeWorkplace();
  const model = join(folder, "six heads");
  const sizes = { ...SIZES, hidden: 192, heads: 12, kvHeads: 6, ffn: 512, layers: 4, vocab: 256 };
  writeTinyCheckpoint(model, { ...TINY, ...sizes, dtype: "bfloat16" });
  const data = join(folder, "uneven.jsonl");
  const picture = { width: 500, height: 200, channels: 3, background: "#cfe" } as const;
  await sharp({ create: picture }).toFile(join(folder, "wide.png"));
  writeFileSync(data, TEXT_TOKENS.map((tokens, index) => sampleOf(tokens, index, sizes.vocab)).join(""));
  const usual = {
    ...input,
    ...{ model, data, max_length: 8192, lora_r: 4, lora_dropout: 0.1, max_steps: STEPS, shuffle: false },
    ...{ gradient_accumulation: 4, planned_step: true, memory: 2 ** 30, host_memory: 2 ** 33 },
  };
  let runs = 0;
  const policyFile = (policy: object): string => {
    const path = join(folder, `policy ${runs++}.json`);
    writeFileSync(path, JSON.stringify({ ...policy, plora: "apart" }));
    return path;
  };
  return {
    cases: (ranks) => casesOf(ranks, policyFile),
    async peaksOf(count, options, running = {}) {
      const args = options.map((own): TrainArgs => {
        const output = join(folder, `run ${runs++}`);
        return { options: { ...usual, ...own, output } as TrainInput };
      });
      const ranks = await runRanks<RankRun[]>(count, BODY, { ...running, args });
      return args.map((_, run) => ranks.map((ofRank) => peaksOfSteps(ofRank[run]!)));
    },
  };
}

function peaksOfSteps({ facts }: RankRun): StepPeaks[] {
  return facts.flatMap((fact) => (fact.fact === "step" ? [fact.peaks] : []));
}

/** Its labels are all tokens but the first 20. */
function sampleOf(textTokens: number, index: number, vocab: number): string {
  const ids = Array.from({ length: textTokens }, (_, at) => 3 + ((7 * at + index) % (vocab - 3)));
  const isPicture = index % 3 === 1;
  const input_ids = [1, ...(isPicture ? [-200] : []), ...ids];
  const labels = input_ids.map((id, at) => (at < 20 ? -100 : id));
  return `${JSON.stringify({ input_ids, labels, ...(isPicture && { images: ["wide.png"], hd_num: 8 }) })}\n`;
}

function casesOf(ranks: number, policyFile: (policy: object) => string): Case[] {
  const rows = { sequence_parallel: ranks, gradient_accumulation: 2 };
  return [
    ["micro-batches of their own", {}],
    ["gradients of which each layer fills a bucket, added up beside the backward pass", { lora_r: 96 }],
    ["several samples a micro-batch, gradients added up exactly", { batch_size: 2, exact_sum: true }],
    ["saved activations on the host", { policy: policyFile(ON_HOST) }],
    ["a shared base in bf16", { policy: policyFile(SHARED) }],
    ["a shared base in NF4", { base: "nf4", policy: policyFile(SHARED) }],
    [
      "a shared base, saved activations on the host",
      { policy: policyFile({ ...SHARED, ...ON_HOST, headGroups: 2 }) },
    ],
    ["shared rows", rows],
    ["shared rows, several samples a micro-batch", { ...rows, batch_size: 2 }],
    ["shared rows, saved activations on the host", { ...rows, policy: policyFile(ON_HOST) }],
  ];
}

/** Expects of each rank and step what its plan says, to the byte or up to so much less; default: 64 KiB. */
export function expectPlanned(ranks: readonly StepPeaks[][], toleratedBytes = 64 * 1024): void {
  for (const [rank, steps] of ranks.entries()) {
    expect(steps).toHaveLength(STEPS);
    for (const [step, { measured, planned }] of steps.entries())
      for (const pool of POOLS) {
        const spare = planned![pool].peakBytes - measured[pool].bytes;
        const place = `${pool} of rank ${rank}, step ${step + 1}: bytes planned beyond those measured`;
        expect(spare, place).toBeGreaterThanOrEqual(0);
        expect(spare, place).toBeLessThanOrEqual(toleratedBytes);
      }
  }
}
