/** What a step of the GPU bench is planned to take. */
import { hdGrid } from "../../src/data/image.ts";
import { OFFICIAL_TARGETS } from "../../src/models/lora.ts";
import { dryRun } from "../../src/plan/dryRun.ts";
import { Policy } from "../../src/step/policy.ts";
import { ofStep } from "../../src/train/peakWatch.ts";
import { cardOf } from "../../src/train/planner.ts";
import { type GpuCase, PAGE, PLACEMENTS, SIZES, TEXT, tokensOf } from "./matrix.ts";
import type { GpuTask } from "./task.ts";

export interface PlannedPeaks {
  allocatedBytes: number;
  /** Undefined on a CPU. */
  reservedBytes: number | undefined;
}

/** Of a case's placement, for a model of its size. */
export function policyOf({ placement: name, size }: GpuCase): Policy {
  const placement = PLACEMENTS[name];
  return Policy.parse({
    ...placement,
    headGroups: Math.min(placement.headGroups ?? 1, SIZES[size].model.kvHeads),
  });
}

/** Of the device's pool in such a step, as `lorafit plan` has it. */
export function plannedPeaks(wanted: GpuCase, device: GpuTask["device"], policy: Policy): PlannedPeaks {
  const { text, image } = tokensOf(wanted.hdNum);
  const run = dryRun({
    model: SIZES[wanted.size].model,
    dtype: "bfloat16",
    lora: { rank: wanted.rank, dropout: 0, targets: OFFICIAL_TARGETS },
    batch: {
      samples: 1,
      sampleTokens: text + image,
      pictures: [hdGrid(PAGE.width, PAGE.height, wanted.hdNum)],
      labelTokens: TEXT.labelTokens,
    },
    policy,
    target: device === "cpu" ? "cpu" : cardOf(device),
    base: wanted.base,
    mapsWeights: false,
  });
  const { device: pool, reservedBytes } = ofStep(run);
  return { allocatedBytes: pool.peakBytes, reservedBytes };
}

/** The smallest of some caps that a case is planned to stay below, CUDA's context included; undefined where none is large enough. */
export function tightestCap(
  wanted: GpuCase,
  device: `cuda:${number}`,
  capsBytes: readonly number[],
): number | undefined {
  const { reservedBytes } = plannedPeaks(wanted, device, policyOf(wanted));
  return capsBytes.find((bytes) => reservedBytes! + cardOf(device).contextBytes <= bytes);
}
