/** Which policy a case of the GPU bench goes by, and what a step is planned to take. */
import { hdGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { type ExactShape, exactShape } from "../../src/plan/dryRun/batchShapes.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { Planner, type SizedWorkload } from "../../src/plan/planner.ts";
import { fastestPlan } from "../../src/plan/search.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { speedOf } from "../../src/plan/time/stepTime.ts";
import { Policy } from "../../src/step/policy.ts";
import { ofStep } from "../../src/train/loop/peakWatch.ts";
import { cardOf, limitsOf } from "../../src/train/machine/modelPlanner.ts";
import { sampleBatch } from "../workload.ts";
import { type GpuCase, PAGE, PLACEMENTS, SIZES, sampleSizeOf, tokensOf } from "./matrix.ts";
import type { GpuTask } from "./task.ts";

type Device = GpuTask["device"];

export interface PlannedPeaks {
  allocatedBytes: number;
  /** Undefined on a CPU. */
  reservedBytes: number | undefined;
}

/** Plans a case's placement for a model of its size. Throws if nothing fits the cap. */
export function policyOf(wanted: GpuCase, device: Device, attention: Policy["attention"]): Policy {
  const { placement: name, size } = wanted;
  if (name === "planned") return fastestPolicy(wanted, device, attention);
  const placement = PLACEMENTS[name];
  const headGroups = Math.min(placement.headGroups ?? 1, SIZES[size].model.kvHeads);
  return Policy.parse({ ...placement, headGroups, attention });
}

/**
 * Chooses a policy as `lorafit train --memory` does. On a CPU that nobody has measured, a card's times are
 * used.
 */
function fastestPolicy(wanted: GpuCase, device: Device, attention: Policy["attention"]): Policy {
  const speed = device === "cpu" ? speedOf(findDevice("rtx-4090")) : undefined;
  const planner = new Planner(modelOf(wanted, device), speed);
  const { text, image } = tokensOf(wanted);
  const workload: SizedWorkload = {
    ...{ rank: wanted.rank, dropout: 0, targets: OFFICIAL_TARGETS, batch: shapeOf(wanted) },
    ...{ maxLength: text + image, pictureLimit: wanted.hdNum, imageShare: undefined, batchSize: 1 },
  };
  const limits = limitsOf({ memory: wanted.capBytes }, device) ?? {
    ...{ budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY },
  };
  const { policy, fits } = fastestPlan(planner, workload, limits, { attention });
  if (!fits) throw new Error("Error: no policy fits the cap");
  return policy;
}

/** Returns the peak bytes of the device's pool in such a step, as `lorafit plan` shows them. */
export function plannedPeaks(wanted: GpuCase, device: Device, policy: Policy): PlannedPeaks {
  const run = dryRun({
    ...modelOf(wanted, device),
    lora: { rank: wanted.rank, dropout: 0, targets: OFFICIAL_TARGETS },
    ...{ batch: shapeOf(wanted), policy },
  });
  const { device: pool, reservedBytes } = ofStep(run);
  return { allocatedBytes: pool.peakBytes, reservedBytes };
}

function modelOf({ size, base }: GpuCase, device: Device): ConstructorParameters<typeof Planner>[0] {
  return {
    model: SIZES[size].model,
    dtype: "bfloat16",
    target: device === "cpu" ? "cpu" : cardOf(device),
    base,
    mapsWeights: false,
  };
}

/** To the row: where the text lies apart on both sides of the picture, products with it take other copies. */
function shapeOf(wanted: GpuCase): ExactShape {
  const grid = hdGrid(PAGE.width, PAGE.height, wanted.hdNum);
  const pixels = { pixels: new Uint8Array(), globalView: new Float32Array() }; // of no matter to a shape
  return exactShape(sampleBatch({ ...grid, ...pixels }, sampleSizeOf(wanted)));
}
