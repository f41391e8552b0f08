/**
 * Tests the promise of a plan: whatever a data set mixes, no micro-batch, evaluation or answer takes more
 * memory than its class was planned with. Lengths, labels, pictures, their grids and their places in the text
 * are drawn independently. So is the way in which samples share a micro-batch.
 */

import fc from "fast-check";
import type { PictureLayout } from "../../src/data/pictures/form.ts";
import { pictureTokens } from "../../src/data/pictures/form.ts";
import { type TileGrid, tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { IMAGE_SLOT } from "../../src/data/samples/sample.ts";
import type { PreparedSample } from "../../src/data/samples/validate.ts";
import { layoutBatch, type MicroBatch } from "../../src/data/stream/batches.ts";
import { type Packing, planBatches } from "../../src/data/stream/packing.ts";
import type { ModelConfig } from "../../src/models/family.ts";
import { generateSteps } from "../../src/models/generation/generate.ts";
import { GREEDY } from "../../src/models/generation/sampling.ts";
import { disposeLora, type Lora } from "../../src/models/lora.ts";
import { disposeModel, type Model } from "../../src/models/weights.ts";
import { exactShape } from "../../src/plan/dryRun/batchShapes.ts";
import type { DryRun } from "../../src/plan/dryRun/dryRun.ts";
import { Planner } from "../../src/plan/planner.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { OFFICIAL_ADAMW } from "../../src/step/optimizer/adamW.ts";
import { createAdamW, disposeAdamW, loraParameters } from "../../src/step/optimizer/optimizer.ts";
import { loadingOf, Policy, ploraName, ploraOf } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import { memoryStats, POOLS, type Pool, resetPeak } from "../../src/torch/device.ts";
import { demandOf } from "../../src/train/data/memoryDemand.ts";
import { ofStep } from "../../src/train/loop/peakWatch.ts";
import { ofAllLengths } from "../../src/train/options/policyFiles.ts";
import { answerRequests, planAnswers } from "../../src/train/planning/answerPlan.ts";
import { LossPlan } from "../../src/train/planning/evalLossPlan.ts";
import { RunPlan } from "../../src/train/planning/policyByLength.ts";
import { randomLora, randomModel, runToEnd, smallConfig } from "./randomModel.ts";

const SPEED = {
  flopsPerSecond: { float32: 1e11, bfloat16: 1e11 },
  ...{ attentionRatios: { flash: 0.5, cudnn: 0.5, efficient: 0.5 }, memoryBytesPerSecond: 1e10 },
  ...{ linkBytesPerSecond: 1e10, kernelMs: 2e-3, launchMs: 0, callMs: 0 },
};

/** Devices that runs are planned for. Runs on the CPU in float32 are also executed. */
export const DEVICES = {
  cpu: { dtype: "float32", target: "cpu" },
  "cpu, bf16": { dtype: "bfloat16", target: "cpu" },
  A100: { dtype: "bfloat16", target: findDevice("a100-80gb") },
  V100: { dtype: "float16", target: findDevice("v100-32gb") },
} as const;

/** A stretch of a sample: text, with labels or without, or a picture. */
type Stretch = { text: number; learned: boolean } | TileGrid;

const text = fc.record({
  text: fc.oneof(fc.integer({ min: 1, max: 12 }), fc.integer({ min: 1, max: 700 })),
  learned: fc.boolean(),
});
const grid: fc.Arbitrary<TileGrid> = fc
  .oneof(
    fc.record({ rows: fc.constantFrom(1, 2, 3), cols: fc.constantFrom(1, 2, 3) }),
    fc.record({ rows: fc.constant(1), cols: fc.integer({ min: 1, max: 8 }) }),
  )
  .map(({ rows, cols }) => tileGrid(rows, cols));
const samples: fc.Arbitrary<Stretch[][]> = fc.array(
  fc.array(fc.oneof({ weight: 2, arbitrary: text }, grid), { minLength: 1, maxLength: 6 }),
  { minLength: 1, maxLength: 6 },
);

const place = fc.constantFrom("device", "host");
const policies = fc.record({
  headGroups: fc.constantFrom(1, 2),
  mlpTileTokens: fc.constantFrom(100, 512, 4096),
  lossChunkTokens: fc.constantFrom(16, 128, 1024),
  visionBatchTiles: fc.integer({ min: 1, max: 8 }),
  attentionInput: fc.constantFrom("kept", "recomputed"),
  plora: fc.constantFrom(...(["apart", "apart", "merged", "folded", "folded-merged"] as const)),
  reuseAttention: fc.boolean(),
  layers: fc.constantFrom(
    [],
    [{ count: 1, boundary: "host", keep: "nothing" }],
    [{ count: 1, boundary: "device", keep: "all" }],
    [{ count: 1, boundary: "device", keep: "attention" }],
  ),
  weights: fc.record({ source: fc.constantFrom("resident", "streamed") }),
  embeddings: place,
  head: place,
  vision: place,
});

const packings: fc.Arbitrary<Packing> = fc.oneof(
  fc.constant({ by: "samples" as const, samples: 1 }),
  fc.record({ by: fc.constant("samples" as const), samples: fc.integer({ min: 2, max: 4 }) }),
  fc.record({ by: fc.constant("tokens" as const), tokens: fc.integer({ min: 600, max: 4000 }) }),
);

export const draws = fc.record({
  layers: fc.integer({ min: 1, max: 3 }),
  heads: fc.constantFrom<[number, number]>([1, 1], [2, 1], [2, 2]),
  ffn: fc.constantFrom(24, 96),
  towerWidth: fc.constantFrom(16, 32),
  patchPixels: fc.constantFrom(1, 2),
  device: fc.constantFrom(...(["cpu", "cpu", "cpu, bf16", "A100", "V100"] as const)),
  dropout: fc.constantFrom(0, 0, 0.2),
  policy: policies,
  samples,
  packing: packings,
  part: fc.constantFrom(...(["step", "step", "loss", "answer"] as const)),
});
export type Draw = typeof draws extends fc.Arbitrary<infer D> ? D : never;

function isGrid(stretch: Stretch): stretch is TileGrid {
  return "rows" in stretch;
}

/** Shortens labelled text, because long answers take long to generate. */
function shortened(stretch: Stretch): Stretch {
  return isGrid(stretch) || !stretch.learned ? stretch : { ...stretch, text: Math.min(stretch.text, 140) };
}

/** Returns a sample of these stretches. Every token of a learned stretch has a label. */
function sampleOf(stretches: readonly Stretch[], index: number): PreparedSample {
  const inputIds = [1];
  const labels = [-100];
  for (const stretch of stretches) {
    const ids = isGrid(stretch) ? [IMAGE_SLOT] : Array<number>(stretch.text).fill(5);
    inputIds.push(...ids);
    labels.push(...ids.map((id) => (!isGrid(stretch) && stretch.learned ? id : -100)));
  }
  const grids = stretches.filter(isGrid);
  inputIds.push(7);
  labels.push(7);
  const pictureRows = pictureTokens(grids);
  return {
    source: { file: "drawn", index },
    ...{ inputIds: Int32Array.from(inputIds), labels: Int32Array.from(labels) },
    images: grids.map(() => ({ path: "", limit: 9 })),
    grids,
    tokens: inputIds.length - grids.length + pictureRows,
  } as unknown as PreparedSample;
}

function batchOf(samples: readonly PreparedSample[], { vision }: ReturnType<typeof smallConfig>): MicroBatch {
  const side = vision.imagePixels;
  const picture = (grid: PictureLayout) => ({
    ...grid,
    pixels: new Uint8Array((grid.units - 1) * side * side * 3),
    globalView: new Float32Array(3 * side * side),
  });
  const loaded = samples.map((sample) => ({ sample, images: sample.grids.map(picture) }));
  return layoutBatch(loaded) as MicroBatch;
}

/** Returns the drawn policy, changed where the drawn model cannot have it. */
function policyOf({ policy, heads: [kvHeads] }: Draw): Policy {
  const { weights, plora } = policy;
  const way = weights.source === "streamed" ? ploraName({ ...ploraOf({ plora }), folded: false }) : plora;
  return Policy.parse({ ...policy, plora: way, headGroups: Math.min(policy.headGroups, kvHeads) });
}

/** The real parts of a run: model, factors and optimizer. */
class Bench implements Disposable {
  readonly model: Model;
  readonly lora: Lora;
  readonly #optimizer: ReturnType<typeof createAdamW>;
  readonly #before: Peaks;

  constructor(config: ModelConfig, policy: Policy, dropout: number) {
    this.#before = byPool((pool) => memoryStats("cpu", pool).liveBytes);
    const dtype = "float32";
    this.model = randomModel(config, { dtype, device: "cpu", ...loadingOf(policy) });
    this.lora = randomLora(config, { rank: 4, dropout, gradients: policy.gradients });
    this.#optimizer = createAdamW(loraParameters(this.lora), OFFICIAL_ADAMW, policy.optimizer);
  }

  /** Returns the peak bytes of each pool while the body runs, above the bytes before this bench was made. */
  peakOf(body: () => void): Peaks {
    for (const pool of POOLS) resetPeak("cpu", pool);
    body();
    return byPool((pool) => memoryStats("cpu", pool).peakBytes - this.#before[pool]);
  }

  [Symbol.dispose](): void {
    disposeAdamW(this.#optimizer);
    disposeLora(this.lora);
    disposeModel(this.model);
  }
}

function byPool(bytes: (pool: Pool) => number): Peaks {
  return { device: bytes("device"), host: bytes("host") };
}

const UNLIMITED = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };

export type Peaks = Record<Pool, number>;

/**
 * Returns by how many bytes a plan may fall short in models as small as these. oneDNN's scratch memory for
 * products in half precision depends on sizes in no regular way. A merged copy of a weight can be smaller
 * than the products that it saves.
 */
export function slackBytes({ device, policy }: Draw): number {
  const merged = policy.plora.includes("merged") ? 32 * 1024 : 0;
  if (device === "cpu, bf16") return 64 * 1024 + merged;
  return merged + (device.startsWith("cpu") ? 0 : 16 * 512); // a card's blocks are rounded up to 512 bytes, one by one
}

export interface Check {
  what: string;
  /** Planned for the class. */
  planned: Peaks;
  /** Measured on the CPU in float32; on other devices, planned for this micro-batch alone, to the byte. */
  taken: Peaks;
}

/** Builds a run over the drawn data, as far as its memory is concerned. */
function runOf(draw: Draw) {
  const { dropout, part, layers, ffn, towerWidth, patchPixels } = draw;
  const [kvHeads, queries] = draw.heads;
  const heads = kvHeads * queries;
  const tower = { hidden: towerWidth, layers: 1, heads: 2, ffn: 2 * towerWidth, patchPixels, eps: 1e-5 };
  const config = smallConfig({
    ...{ layers, heads, kvHeads, hidden: 8 * heads, ffn },
    maxPositions: 2 ** 20,
    vision: { ...tower, imagePixels: 24 * patchPixels },
  });
  const policy = policyOf(draw);
  const packing: Packing = part === "step" ? draw.packing : { by: "samples", samples: 1 };
  const samples = draw.samples.map((stretches, index) =>
    sampleOf(part === "answer" ? stretches.map(shortened) : stretches, index),
  );
  const { dtype, target } = DEVICES[draw.device];
  const planner = new Planner({ model: config, dtype, target, mapsWeights: false }, SPEED);
  const plan = new RunPlan({
    ...{ planner, demand: demandOf(samples, packing), stepsDown: [] },
    workload: { rank: 4, dropout, targets: "." },
    choice: { by: "user", policies: [ofAllLengths(policy)] },
  });
  return { plan, policy, packing, samples, config };
}

/** Plans a part of a run and measures it, for everything that the data contains. */
export function* checksOf(draw: Draw): Generator<Check> {
  const run = runOf(draw);
  if (draw.device !== "cpu") {
    yield* CHECKS[draw.part](run, undefined, draw.dropout);
    return;
  }
  using bench = new Bench(run.config, run.policy, draw.dropout);
  yield* CHECKS[draw.part](run, bench, draw.dropout);
}

type DrawnRun = ReturnType<typeof runOf>;

const CHECKS: Record<
  Draw["part"],
  (run: DrawnRun, bench: Bench | undefined, dropout: number) => Generator<Check>
> = {
  *step({ plan, policy, packing, samples, config }, bench, dropout) {
    const options = { lossScale: 1, ...(dropout > 0 && { dropoutSeed: 5n }) };
    for (const { draws } of planBatches((at) => samples[at]!.tokens, packing, samples.length)) {
      const batch = batchOf(
        draws.map((at) => samples[at]!),
        config,
      );
      const taken = bench
        ? bench.peakOf(() => runToEnd(trainStep(bench.model, bench.lora, batch, policy, options)))
        : peaksOf(plan.planned(batch));
      yield { what: "step", planned: peaksOf(plan.plannedAtMost(batch.inputIds.length)), taken };
    }
  },
  *loss({ plan, samples, config }, bench) {
    const losses = new LossPlan({ plan, samples, room: UNLIMITED, stepsDown: [] });
    for (const sample of samples) {
      const policy = losses.policyFor(sample.tokens);
      const planned = plan.loss(losses.demand.shapeOf(plan.classOf(sample.tokens)), policy, UNLIMITED).run;
      const batch = batchOf([sample], config);
      const taken = bench
        ? bench.peakOf(() => runToEnd(evalStep(bench.model, bench.lora, batch, policy)))
        : peaksOf(plan.loss(exactShape(batch), policy, UNLIMITED).run);
      yield { what: "loss", planned: peaksOf(planned), taken };
    }
  },
  *answer({ plan, policy, samples, config }, bench) {
    const planned = planAnswers(samples, [7], (shape) => plan.answer(shape, UNLIMITED)).most!;
    for (const sample of samples) {
      for (const { start, pictures, maxNewTokens } of answerRequests(sample, [7])) {
        const { inputIds, labels, grids } = sample;
        const asked = {
          inputIds: inputIds.slice(0, start),
          labels: labels.slice(0, start),
          grids: grids.slice(0, pictures),
        };
        const prompt = batchOf([{ ...sample, ...asked }], config);
        const options = { sampling: GREEDY, maxNewTokens, stopIds: [], visionBatch: policy.visionBatchTiles };
        const taken = bench
          ? bench.peakOf(() => runToEnd(generateSteps(bench.model, bench.lora, prompt, options)))
          : peaksOf(planAnswers([sample], [7], (shape) => plan.answer(shape, UNLIMITED)).most!.run);
        yield { what: "answer", planned: peaksOf(planned.run), taken };
      }
    }
  },
};

function peaksOf(run: DryRun): Peaks {
  const { device, host } = ofStep(run);
  return { device: device.peakBytes, host: host.peakBytes };
}
