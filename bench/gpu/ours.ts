/**
 * lorafit's worker of bench/gpu/run.ts: ours.js TASK. Weights are random, made on the device in the case's
 * precision.
 */

import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { DEFAULT_RULES } from "../../src/data/pictures/forms.ts";
import { hdGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import { openImagePool } from "../../src/data/pictures/imagePool.ts";
import type { PreparedSample } from "../../src/data/samples/validate.ts";
import { createBatches, type MicroBatch } from "../../src/data/stream/batches.ts";
import { fileOrder } from "../../src/data/stream/drawOrder.ts";
import { tensorsOf } from "../../src/models/families.ts";
import { createLora } from "../../src/models/lora.ts";
import { assembleModel, type Model } from "../../src/models/weights.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { settledAttention } from "../../src/plan/time/attentionChoice.ts";
import { drive } from "../../src/step/driveSteps.ts";
import { OFFICIAL_ADAMW } from "../../src/step/optimizer/adamW.ts";
import { createAdamW, loraParameters, stepAdamW } from "../../src/step/optimizer/optimizer.ts";
import { factorCopies, loadingOf } from "../../src/step/policy.ts";
import { trainStep } from "../../src/step/step.ts";
import { takeCopyTimes, timeCopies } from "../../src/torch/copies.ts";
import { empty } from "../../src/torch/create.ts";
import { category, synchronize } from "../../src/torch/device.ts";
import type { Device } from "../../src/torch/dtypes.ts";
import { whyTwins } from "../../src/torch/kernels/fusedKernel.ts";
import { keep, scope, type Tensor } from "../../src/torch/tensor.ts";
import { freeCache, peaksOf, resetPeaks, startCompute } from "../../src/train/machine/compute.ts";
import { sampleText } from "../workload.ts";
import { PAGE, SIZES, sampleSizeOf, tokensOf } from "./matrix.ts";
import { plannedPeaks, policyOf } from "./planned.ts";
import type { GpuReport, GpuTask } from "./task.ts";

const { case: wanted, device, picture } = JSON.parse(readFileSync(process.argv[2]!, "utf8")) as GpuTask;
const config = SIZES[wanted.size].model;
startCompute({ dtype: "bfloat16" }, { device, dtype: "bf16", memory: wanted.capBytes });
const problem = device === "cpu" ? undefined : whyTwins();
if (problem) console.error(`lorafit's own kernels can't be used: ${problem}`);
const tokens = tokensOf(wanted);
const attention = settledAttention(
  "measured",
  device,
  { config, dtype: "bfloat16", tokens: tokens.text + tokens.image, packed: false },
  (text) => console.error(text),
);
const policy = policyOf(wanted, device, attention);
const pictures = openImagePool({ rules: DEFAULT_RULES, compat: "lorafit" });
const batches = createBatches({
  samples: [preparedSample()],
  sampler: fileOrder(1),
  packing: { by: "samples", samples: 1 },
  draws: Number.POSITIVE_INFINITY,
  pictures,
});
const model = randomModel();
const lora = createLora(config, {
  ...{ rank: wanted.rank, alpha: wanted.rank, dropout: 0, rslora: false, targets: OFFICIAL_TARGETS, seed: 1 },
  device,
  gradients: policy.gradients,
  copies: factorCopies(policy, "bfloat16"),
});
const optimizer = createAdamW(loraParameters(lora), OFFICIAL_ADAMW, policy.optimizer);

const matrixFlopsPerSecond = matrixRate();
freeCache(device); // what the rate's matrices took is no part of a step
answer({
  ...{ name: "lorafit", policy, matrixFlopsPerSecond },
  planned: plannedPeaks(wanted, device, policy),
});
timeCopies(true);
for await (const _ of createInterface({ input: process.stdin })) answer(await step());
await pictures.close();

/** From the wait for its pictures on: those of the next steps are decoded meanwhile. */
async function step(): Promise<GpuReport> {
  resetPeaks(device);
  takeCopyTimes();
  const startMs = performance.now();
  const { value: batch } = await batches.next();
  const dataWaitMs = performance.now() - startMs;
  const { loss } = await drive(trainStep(model, lora, batch as MicroBatch, policy, { lossScale: 1 }));
  stepAdamW(optimizer, 5e-5, 1);
  synchronize(device);
  const seconds = (performance.now() - startMs) / 1000;
  const { device: pool, reservedBytes } = peaksOf(device);
  return {
    ...{ seconds, loss, peakBytes: pool.bytes, reservedPeakBytes: reservedBytes },
    ...{ dataWaitMs, copies: takeCopyTimes() },
  };
}

/** The page's sample as a data set's would be. */
function preparedSample(): PreparedSample {
  const grid = hdGrid(PAGE.width, PAGE.height, wanted.hdNum);
  return {
    ...sampleText(sampleSizeOf(wanted)),
    images: [{ path: picture, limit: wanted.hdNum }],
    grids: [grid],
    tokens: tokens.text + tokens.image,
  };
}

/** Each matrix is quantised as soon as it is made. */
function randomModel(): Model {
  const tensors = tensorsOf(config);
  const options = { dtype: "bfloat16", device, ...loadingOf(policy), base: wanted.base } as const;
  const random = (name: string, on: Device): Tensor =>
    scope(() => {
      const weight = empty(tensors.get(name)!.shape, { dtype: "bfloat16", device: on });
      if (/norm\d?\.weight$/.test(name)) return weight.fill_(1);
      return on === device ? weight.normal_({ std: 0.02 }) : weight.fill_(0.02); // a CPU draws 8 billion numbers in minutes
    });
  return category("weights", () => keep(scope(() => assembleModel(config, options, random))));
}

/** FLOPs a second of a large product in bf16: what the device can do. */
function matrixRate(): number {
  const extent = device === "cpu" ? 1024 : 8192;
  return scope(() => {
    const a = empty([extent, extent], { dtype: "bfloat16", device }).normal_();
    let best = Number.POSITIVE_INFINITY;
    for (let round = 0; round < 8; round++) {
      synchronize(device);
      const startMs = performance.now();
      scope(() => void a.mm(a));
      synchronize(device);
      best = Math.min(best, performance.now() - startMs);
    }
    return (2 * extent ** 3) / (best / 1000);
  });
}

function answer(value: object): void {
  process.stdout.write(`${JSON.stringify(value)}\n`);
}
