/**
 * Bytes per additional token at the size of the 7B model, with boundaries on the host. docs/memory.md
 * explains them.
 */

import { expect, it } from "vitest";
import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { tensorsOf } from "../../src/models/families.ts";
import { createLora, disposeLora } from "../../src/models/lora.ts";
import { assembleModel, disposeModel } from "../../src/models/weights.ts";
import { PRESETS } from "../../src/models/xcomposer2/spec.ts";
import { plannedBatch } from "../../src/plan/dryRun/batchShapes.ts";
import { Policy, placesOf } from "../../src/step/policy.ts";
import { trainStep } from "../../src/step/step.ts";
import { empty } from "../../src/torch/create.ts";
import { category, memoryStats, type PlanTarget, planningFor, resetPeak } from "../../src/torch/device.ts";
import { keep, scope } from "../../src/torch/tensor.ts";
import { abridged } from "../../src/torch/trace.ts";
import { runToEnd } from "../helpers/randomModel.ts";

/** Two of 32 layers: all layers are alike, and the boundaries between them are on the host. */
const config = { ...PRESETS["4khd-7b"], layers: 2 };
const tensors = tensorsOf(config);
/** A picture of n tiles in a column has n * TILE_TOKENS + SEPARATE_TOKENS tokens. */
const TILE_TOKENS = 156;
const SEPARATE_TOKENS = 157;

const TARGETS: Record<string, PlanTarget> = {
  cpu: { device: "cpu" },
  "cuda with flash attention": { device: "cuda" },
  "cuda without flash attention": { device: "cuda", computeCapability: 7.5 },
};

function peakBytes(tokens: number, policy: Policy): number {
  const options = { dtype: "bfloat16", device: "meta" } as const;
  const model = category("weights", () =>
    keep(
      scope(() =>
        assembleModel(config, { ...options, places: placesOf(policy) }, (name) =>
          empty(tensors.get(name)!.shape, options),
        ),
      ),
    ),
  );
  const lora = createLora(config, {
    ...{ rank: 64, alpha: 64, dropout: 0, rslora: false, targets: ".", seed: 1 },
    ...{ device: "meta", gradients: policy.gradients },
  });
  const rows = Math.floor((0.8 * tokens - SEPARATE_TOKENS) / TILE_TOKENS);
  const batch = plannedBatch({
    samples: 1,
    sampleTokens: tokens,
    labelTokens: tokens / 8,
    pictures: [tileGrid(rows, 1)],
  });
  resetPeak("meta");
  runToEnd(trainStep(model, lora, batch, policy, { lossScale: 1 }));
  disposeLora(lora);
  disposeModel(model);
  return memoryStats("meta").peakBytes;
}

/** Returns the difference between two lengths, per token, so that bytes common to both cancel out. */
function bytesPerToken(policy: Policy, target: PlanTarget): number {
  return planningFor(target, () =>
    abridged(() => (peakBytes(131_072, policy) - peakBytes(65_536, policy)) / 65_536),
  );
}

it.each(Object.keys(TARGETS))(
  "one more token takes at most 45 KB, and 28 KB with attention's input recomputed: %s",
  (name) => {
    const lean = {
      headGroups: 8,
      mlpTileTokens: 512,
      visionBatchTiles: 1,
      reuseAttention: false,
      plora: "apart",
      layers: [{ count: 1, boundary: "host" }],
    };
    const kept = bytesPerToken(Policy.parse(lean), TARGETS[name]!);
    const recomputed = bytesPerToken(Policy.parse({ ...lean, attentionInput: "recomputed" }), TARGETS[name]!);
    console.log(`${name}: ${kept.toFixed(0)} bytes a token, ${recomputed.toFixed(0)} recomputed`);
    expect(kept).toBeLessThanOrEqual(45_000);
    expect(recomputed).toBeLessThanOrEqual(28_000);
  },
);
