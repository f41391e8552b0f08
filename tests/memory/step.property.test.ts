import fc from "fast-check";
import { afterAll, beforeAll, expect, it } from "vitest";
import { disposeLora } from "../../src/models/lora.ts";
import { disposeModel } from "../../src/models/weights.ts";
import {
  createAdamW,
  disposeAdamW,
  loraParameters,
  normOfGradients,
  stepAdamW,
} from "../../src/step/optimizer/optimizer.ts";
import { factorCopies, layerPolicies, loadingOf, Policy, ploraName, ploraOf } from "../../src/step/policy.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import {
  getThreads,
  memoryStats,
  POOLS,
  type Pool,
  resetPeak,
  setThreads,
  type TrackedDevice,
} from "../../src/torch/device.ts";
import { scope } from "../../src/torch/tensor.ts";
import { randomBatch, randomLora, randomModel, runToEnd, smallConfig } from "../helpers/randomModel.ts";

const place = fc.constantFrom("device", "host");
/** [kv heads, query heads per kv head] */
const heads = fc.constantFrom([1, 1], [1, 4], [2, 1], [2, 2], [4, 2]);

const policies = fc.record({
  headGroups: fc.constantFrom(1, 2, 4),
  mlpTileTokens: fc.constantFrom(100, 512, 1024),
  lossChunkTokens: fc.integer({ min: 1, max: 300 }),
  visionBatchTiles: fc.integer({ min: 1, max: 3 }),
  attentionInput: fc.constantFrom("kept", "recomputed"),
  plora: fc.constantFrom("apart", "merged", "folded", "folded-merged"),
  reuseAttention: fc.boolean(),
  boundaryAhead: fc.boolean(),
  layers: fc.array(
    fc.record({
      count: fc.constant(1),
      boundary: fc.constantFrom("device", "host", "none"),
      keep: fc.constantFrom("nothing", "middle", "attention", "all"),
    }),
    { maxLength: 3 },
  ),
  weights: fc.record({
    source: fc.constantFrom("resident", "streamed"),
    aheadLayers: fc.integer({ min: 0, max: 3 }),
  }),
  embeddings: place,
  head: place,
  vision: place,
  optimizer: fc.record({ place, precision: fc.constantFrom("fp32", "8bit") }),
  gradients: fc.constantFrom("fp32", "bf16"),
});

const samples = fc.array(
  fc.record({
    textTokens: fc.integer({ min: 2, max: 400 }),
    images: fc.constantFrom(0, 0, 1, 2),
    labelTokens: fc.integer({ min: 1, max: 200 }),
  }),
  { minLength: 1, maxLength: 3 },
);

const configurations = fc.record({
  layers: fc.integer({ min: 1, max: 4 }),
  heads,
  headDim: fc.constantFrom(8, 8, 16, 16, 64),
  ffn: fc.constantFrom(24, 48, 130),
  rank: fc.integer({ min: 1, max: 9 }),
  dropout: fc.constantFrom(0, 0, 0.2),
  targets: fc.constantFrom(".", "wqkv$|wo$", "w2$"),
  dtype: fc.constantFrom("float32" as const, "bfloat16" as const, "float16" as const, "float64" as const),
  base: fc.constantFrom(undefined, undefined, undefined, "int8" as const, "nf4" as const, "fp8" as const),
  headBase: fc.constantFrom(undefined, undefined, "int8" as const),
  visionBase: fc.constantFrom(undefined, undefined, "int8" as const, "nf4" as const, "fp8" as const),
  policy: policies,
  samples,
});

type Configuration = typeof configurations extends fc.Arbitrary<infer C> ? C : never;

interface Measured {
  peakBytes: Record<Pool, number>;
  /** Peak of the loss alone, forward only, as in an evaluation. */
  evalPeakBytes: Record<Pool, number>;
  /** Bytes left behind by the step and the loss. */
  leftBytes: Record<Pool, number>;
}

const ADAM = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };

/** Runs one micro-batch and the update of its factors, then the micro-batch's loss alone. */
function measure(configuration: Configuration, device: TrackedDevice): Measured {
  const { layers, rank, dropout, targets, dtype, base, headBase, visionBase } = configuration;
  const [kvHeads, queries] = configuration.heads as [number, number];
  const count = kvHeads * queries;
  const config = smallConfig({ layers, heads: count, kvHeads, ...widthsOf(configuration, count) });
  const policy = fittingPolicy(configuration, kvHeads);
  layerPolicies(policy, config);
  const model = randomModel(config, { dtype, device, ...loadingOf(policy), base, headBase, visionBase });
  const { gradients } = policy;
  const copies = factorCopies(policy, dtype);
  const lora = randomLora(config, { rank, dropout, targets, device, gradients, copies });
  const parameters = loraParameters(lora);
  const optimizer = createAdamW(parameters, ADAM, policy.optimizer);
  const batch = randomBatch(config, configuration.samples);
  const before = liveBytes(device);
  const peaks = peaksSince(before, device);
  const options = { lossScale: 1, ...(dropout > 0 && { dropoutSeed: 5n }) };
  runToEnd(trainStep(model, lora, batch, policy, options));
  scope(() => void normOfGradients(parameters));
  stepAdamW(optimizer, 1e-4, 0.5);
  const peakBytes = peaks();
  const evalPeaks = peaksSince(before, device);
  runToEnd(evalStep(model, lora, batch, policy));
  const evalPeakBytes = evalPeaks();
  const live = liveBytes(device);
  disposeAdamW(optimizer);
  disposeLora(lora);
  disposeModel(model);
  return { peakBytes, evalPeakBytes, leftBytes: byPool((pool) => live[pool] - before[pool]) };
}

function byPool(bytes: (pool: Pool) => number): Record<Pool, number> {
  return { device: bytes("device"), host: bytes("host") };
}

function liveBytes(device: TrackedDevice): Record<Pool, number> {
  return byPool((pool) => memoryStats(device, pool).liveBytes);
}

/** Resets the peaks. Returns a function that gives each pool's peak since then, above `before`. */
function peaksSince(before: Record<Pool, number>, device: TrackedDevice): () => Record<Pool, number> {
  for (const pool of POOLS) resetPeak(device, pool);
  return () => byPool((pool) => memoryStats(device, pool).peakBytes - before[pool]);
}

/** Returns the model's widths. NF4 needs rows of whole blocks of 64. */
function widthsOf(
  { base, headDim, ffn }: Configuration,
  heads: number,
): { headDim: number; hidden: number; ffn: number } {
  if (base !== "nf4") return { headDim, hidden: heads * headDim, ffn };
  const dim = Math.max(headDim, 64 / heads);
  return { headDim: dim, hidden: heads * dim, ffn: 64 * Math.ceil(ffn / 64) };
}

/** Returns the drawn policy, changed where the drawn model cannot have it. */
function fittingPolicy({ policy, layers }: Configuration, kvHeads: number): Policy {
  const runs = policy.layers.slice(0, layers).map((run, index) => ({
    ...run,
    boundary: index === 0 && run.boundary === "none" ? "host" : run.boundary,
  }));
  const { plora, weights } = policy;
  const streamed = weights.source === "streamed"; // nothing can be folded into streamed weights
  const way = streamed ? ploraName({ ...ploraOf({ plora }), folded: false }) : plora;
  return Policy.parse({
    ...policy,
    plora: way,
    headGroups: Math.min(policy.headGroups, kvHeads),
    layers: runs,
  });
}

/** With one thread, a kernel's memory per thread is its whole memory. */
const threads = getThreads();
beforeAll(() => setThreads(1));
afterAll(() => setThreads(threads));

it("a plan's peak of each pool is the measured one, an evaluation takes no more than a step, and both give back every byte, whatever the configuration", () => {
  fc.assert(
    fc.property(configurations, (configuration) => {
      const planned = measure(configuration, "meta");
      const measured = measure(configuration, "cpu");
      for (const { leftBytes } of [planned, measured]) expect(leftBytes).toEqual({ device: 0, host: 0 });
      for (const pool of POOLS) {
        for (const peak of ["peakBytes", "evalPeakBytes"] as const) {
          const toleranceBytes = Math.max(64 * 1024, measured[peak][pool] / 1000);
          const difference = Math.abs(planned[peak][pool] - measured[peak][pool]);
          expect(difference, `${peak} of the ${pool}`).toBeLessThanOrEqual(toleranceBytes);
        }
        expect(planned.evalPeakBytes[pool], pool).toBeLessThanOrEqual(planned.peakBytes[pool]);
      }
    }),
    { numRuns: 200, seed: 7 },
  );
}, 1_800_000); // more than a minute on an idle machine, many times that on a busy one
