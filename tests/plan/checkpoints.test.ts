/** Resuming and saving need as much memory in a run as in its plan: only one piece at a time. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { readAdapter } from "../../src/checkpoint/adapter/peft.ts";
import { disposeLora, type Lora, loraFromAdapter } from "../../src/models/lora.ts";
import { disposeModel } from "../../src/models/weights.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { type DryRun, dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { type AdamW, createAdamW, disposeAdamW, loraParameters } from "../../src/step/optimizer/optimizer.ts";
import { factorCopies, Policy, placesOf } from "../../src/step/policy.ts";
import { memoryStats, POOLS, resetPeak } from "../../src/torch/device.ts";
import { scope } from "../../src/torch/tensor.ts";
import {
  type Checkpoint,
  emptyStep,
  restoreOptimizer,
  saveCheckpoint,
  type TrainerState,
} from "../../src/train/folder/checkpoints.ts";
import { randomLora, randomModel, smallConfig } from "../helpers/randomModel.ts";

const output = mkdtempSync(join(tmpdir(), "plan-checkpoints-"));
afterAll(() => rmSync(output, { recursive: true }));

const model = smallConfig();
/** Rank at which the larger factors have 96 x 48 = 4608 elements. */
const RANK = 96;
const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };
const state: TrainerState = {
  ...{
    version: 1,
    step: 3,
    totalSteps: 9,
    microBatches: 7,
    data: { next: 3, waiting: [] },
    evals: [],
    stepsDown: [],
  },
  ...{ accumulated: { ...emptyStep(), microBatches: 1, weightSum: 1 }, options: {}, fingerprints: {} },
};
const COMBINATIONS = (["fp32", "8bit"] as const).flatMap((precision) =>
  (["device", "host"] as const).flatMap((place) =>
    (["float32", "bfloat16"] as const).map((dtype) => ({ precision, place, dtype })),
  ),
);

it.each(COMBINATIONS)(
  "$precision moments on the $place, factors in $dtype",
  async ({ dtype, ...optimizer }) => {
    const policy = Policy.parse({ optimizer });
    const checkpoint = await writtenBefore(policy);
    const before = POOLS.map((pool) => memoryStats("cpu", pool).liveBytes);
    const peaks = (): number[] =>
      POOLS.map((pool, index) => memoryStats("cpu", pool).peakBytes - before[index]!);
    for (const pool of POOLS) resetPeak("cpu", pool);
    const weights = randomModel(model, { dtype, places: placesOf(policy) });
    const { lora, state: adamW } = resumed(checkpoint, policy, dtype);
    const resuming = peaks();
    for (const pool of POOLS) resetPeak("cpu", pool);
    await saveCheckpoint(output, state, { lora, optimizer: adamW, baseModel: "base" });
    const saving = peaks();
    for (const free of [() => disposeAdamW(adamW), () => disposeLora(lora), () => disposeModel(weights)])
      free();

    const plan = dryRun({
      ...{ model, dtype, policy, target: "cpu", mapsWeights: false },
      lora: { rank: RANK, dropout: 0, targets: OFFICIAL_TARGETS },
      batch: { samples: 1, sampleTokens: 100, pictures: [], labelTokens: 30 },
    });
    const [start, resume, save] = ["start", "resume", "save"].map((name) => phasePeaks(plan, name));
    expect(resume!.map((bytes, pool) => Math.max(bytes, start![pool]!))).toEqual(resuming);
    expect(save).toEqual(saving);
    expect(save).toEqual(resume); // neither needs more than what stays
  },
);

function phasePeaks({ phases }: DryRun, wanted: string): number[] {
  const { devicePeakBytes, hostPeakBytes } = phases.find(({ name }) => name === wanted)!;
  return [devicePeakBytes, hostPeakBytes];
}

async function writtenBefore(policy: Policy): Promise<Checkpoint> {
  const lora = randomLora(model, { rank: RANK, targets: OFFICIAL_TARGETS });
  const optimizer = createAdamW(loraParameters(lora), adam, policy.optimizer);
  const folder = await saveCheckpoint(output, state, { lora, optimizer, baseModel: "base" });
  disposeAdamW(optimizer);
  disposeLora(lora);
  return { folder, state };
}

/** Resumes from a checkpoint as a run does. */
function resumed(
  checkpoint: Checkpoint,
  policy: Policy,
  dtype: "float32" | "bfloat16",
): { lora: Lora; state: AdamW } {
  const { gradients, optimizer: how } = policy;
  const held = { device: "cpu", gradients, copies: factorCopies(policy, dtype) } as const;
  const lora = scope(() => loraFromAdapter(model, readAdapter(checkpoint.folder), held));
  const optimizer = createAdamW(loraParameters(lora), adam, how);
  restoreOptimizer(checkpoint, optimizer, expect.unreachable);
  return { lora, state: optimizer };
}
