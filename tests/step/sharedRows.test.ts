/** Ranks that share the rows of a micro-batch have the loss and gradients of one process. */
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { disposeLora, type Lora, zeroGradients } from "../../src/models/lora.ts";
import { ON_DEVICE } from "../../src/models/places.ts";
import { disposeModel, type LoadOptions, type Model } from "../../src/models/weights.ts";
import { refuseUnevenHeads } from "../../src/step/ownRows.ts";
import { Policy, placesOf, ploraOf } from "../../src/step/policy.ts";
import { type EvalResult, evalStep, type TrainResult, trainStep } from "../../src/step/step.ts";
import { memoryStats } from "../../src/torch/device.ts";
import { plannedPeers } from "../../src/torch/peers/peers.ts";
import { dispose, keep, scope, type Tensor } from "../../src/torch/tensor.ts";
import { together } from "../helpers/meetingPeers.ts";
import { moveModel_ } from "../helpers/moveModel.ts";
import { POLICIES } from "../helpers/policyCases.ts";
import { randomLora, randomModel, relativeDifference, runToEnd } from "../helpers/randomModel.ts";
import { randomPatchBatch, smallQwen3 } from "../helpers/randomPatches.ts";
import { batchOf, config } from "../helpers/smallPictures.ts";

const batch = batchOf([{ textTokens: 21, images: 1 }, { textTokens: 7, labelTokens: 1 }, { textTokens: 64 }]);
let models: { apart: Model; folded: Model };
let lora: Lora;

beforeAll(() => {
  models = { apart: randomModel(config), folded: randomModel(config, { folded: true }) };
  lora = randomLora(config, { dtype: "float64" });
});

afterEach(() => {
  for (const model of Object.values(models)) moveModel_(model, ON_DEVICE);
});

afterAll(() => {
  disposeLora(lora);
  for (const model of Object.values(models)) disposeModel(model);
});

/** Returns a policy of the cases, with tiles smaller than the rows of a rank. */
function policyOf(given: unknown): Policy {
  const policy = Policy.parse(given);
  return { ...policy, mlpTileTokens: policy.mlpTileTokens === 512 ? 48 : policy.mlpTileTokens };
}

interface Run {
  model?: Model;
  lora?: Lora;
  dropoutSeed?: bigint;
}

/** Returns the result and the gradients of one process. */
function alone(
  of: MicroBatch,
  policy: Policy,
  { model = modelFor(policy), lora: factors = lora, ...options }: Run = {},
): { result: TrainResult; gradients: Tensor[] } {
  zeroGradients(factors);
  const result = runToEnd(trainStep(model, factors, of, policy, { lossScale: 3, ...options }));
  return { result, gradients: copied(factors) };
}

/** Returns each rank's result, the sum of the ranks' gradients, and the collectives. */
function shared(
  count: number,
  of: MicroBatch,
  policy: Policy,
  { model = modelFor(policy), lora: factors = lora, ...options }: Run = {},
): { results: TrainResult[]; gradients: Tensor[]; collectives: string[] } {
  const { results, collectives } = together(count, (sharers) => {
    zeroGradients(factors);
    const step = trainStep(model, factors, of, policy, { lossScale: 3, sharers, ...options });
    return { result: runToEnd(step), gradients: copied(factors) };
  });
  const gradients = keep(
    scope(() =>
      results[0]!.gradients.map((_, index) =>
        results.map((rank) => rank.gradients[index]!).reduce((sum, each) => sum.add(each)),
      ),
    ),
  );
  dispose(results.map((rank) => rank.gradients));
  return { results: results.map(({ result }) => result), gradients, collectives };
}

function copied({ modules }: Lora): Tensor[] {
  return keep(
    scope(() => [...modules.values()].flatMap(({ a, b }) => [a.gradient!.clone(), b.gradient!.clone()])),
  );
}

function modelFor(policy: Policy): Model {
  const model = ploraOf(policy).folded ? models.folded : models.apart;
  moveModel_(model, placesOf(policy));
  return model;
}

/** Returns the bytes of both pools, between which a policy moves weights. */
function liveBytes(): number {
  return memoryStats("cpu").liveBytes + memoryStats("cpu", "host").liveBytes;
}

/** Holds a shared micro-batch to one process. Returns the collectives. */
function compare(count: number, of: MicroBatch, policy: Policy, run: Run = {}, within = 1e-9): string[] {
  if (!run.model) modelFor(policy); // moved first, since shares are padded
  const before = liveBytes();
  const one = alone(of, policy, run);
  const many = shared(count, of, policy, run);
  const names = [...(run.lora ?? lora).modules.keys()].flatMap((name) => [`${name}.a`, `${name}.b`]);
  names.forEach((name, index) => {
    const difference = relativeDifference(many.gradients[index]!, one.gradients[index]!);
    const gradient = one.gradients[index]!;
    const isZero = scope(() => gradient.abs().max().item()) === 0;
    if (isZero)
      expect(
        scope(() => many.gradients[index]!.abs().max().item()),
        name,
      ).toBe(0);
    else expect(difference, name).toBeLessThan(within);
  });
  for (const { loss, lossSum, labelTokens } of many.results) {
    expect(labelTokens).toBe(one.result.labelTokens);
    expect(Math.abs(lossSum - one.result.lossSum)).toBeLessThan(within * Math.max(1, one.result.lossSum));
    expect(loss).toBe(many.results[0]!.loss); // the same bits on every rank
  }
  dispose([one.gradients, many.gradients]);
  expect(liveBytes()).toBe(before);
  return many.collectives;
}

it("features of pictures for the first layers reach the rows of each rank", () => {
  const own = smallQwen3({ kvHeads: 2 });
  const model = randomModel(own);
  const factors = randomLora(own, { dtype: "float64" });
  const pictures = [
    [3, 5],
    [2, 2],
    [1, 9],
  ] as const;
  const of = randomPatchBatch(own, [
    { textTokens: 12, pictures },
    { textTokens: 9, labelTokens: 2 },
  ]);
  for (const given of [{}, POLICIES["one boundary"]])
    compare(2, of, policyOf(given), { model, lora: factors });
  disposeLora(factors);
  disposeModel(model);
});

/** The policies that change what ranks exchange or keep; the others are drawn below. */
const EXCHANGING = [
  ...["default", "two head groups", "attention by products, of the last layer's last rows alone"],
  ...["attention by products, in groups and tiles, from the host", "attention recomputed twice"],
  ...[
    "attention's input recomputed",
    "PLoRA merged, in tiles and groups",
    "PLoRA folded, in tiles and groups",
  ],
  ...["some boundaries from the host one layer ahead", "one boundary", "MLP inputs kept", "attention kept"],
  ...["all kept", "weights streamed", "the smallest working set", "all of it"],
];

describe("ranks that share the rows of a micro-batch", () => {
  it.each(EXCHANGING)("have the gradients of one process: %s", (name) => {
    compare(2, batch, policyOf(POLICIES[name]));
  });

  it.each([3, 4])("have the gradients of one process: %i ranks", (count) => {
    for (const name of ["default", "all of it", "attention kept"])
      compare(count, batch, policyOf(POLICIES[name]));
  });

  it.each([
    ["an odd number of rows", [{ textTokens: 36 }]],
    ["fewer rows than fill the ranks", [{ textTokens: 4, labelTokens: 1 }]],
    ["as many rows as ranks", [{ textTokens: 3, labelTokens: 1 }]],
    ["one label", [{ textTokens: 90, labelTokens: 1 }]],
    ["a label in every row", [{ textTokens: 50, labelTokens: 50 }]],
    ["several pictures of one sample", [{ textTokens: 30, images: 3 }]],
    [
      "pictures and text alone, packed",
      [{ textTokens: 9 }, { textTokens: 12, images: 2 }, { textTokens: 1 }],
    ],
  ])("have the gradients of one process: %s", (_, samples) => {
    const one = batchOf(samples);
    for (const count of [2, 4]) compare(count, one, policyOf(POLICIES["two head groups"]));
  });

  it("drop the same elements as one process", () => {
    const dropping = { ...lora, dropout: 0.3 };
    for (const name of ["default", "all of it", "attention's input recomputed"])
      compare(2, batch, policyOf(POLICIES[name]), { lora: dropping, dropoutSeed: 5n });
    compare(3, batch, policyOf({}), { lora: dropping, dropoutSeed: 5n });
  });

  it.each(["int8", "nf4", "fp8"] as const)("have the gradients of one process over a base in %s", (base) => {
    const model = randomModel(config, { base, visionBase: base } as Partial<LoadOptions>);
    compare(2, batch, policyOf({ headGroups: 2 }), { model });
    disposeModel(model);
  });

  it("have the gradients of one process to rounding in float32", () => {
    const model = randomModel(config, { dtype: "float32" });
    const factors = randomLora(config);
    compare(4, batch, policyOf({ headGroups: 2 }), { model, lora: factors }, 1e-5);
    disposeLora(factors);
    disposeModel(model);
  });

  it("have the gradients of one process, whatever is drawn", () => {
    const drawn = fc.record({
      count: fc.constantFrom(2, 3, 4, 6),
      samples: fc.array(
        fc.record({
          textTokens: fc.integer({ min: 2, max: 60 }),
          images: fc.constantFrom(0, 0, 1, 2),
          labels: fc.double({ min: 0.01, max: 1, noNaN: true }),
        }),
        { minLength: 1, maxLength: 3 },
      ),
      policy: fc.constantFrom(...Object.keys(POLICIES)),
      mlpTileTokens: fc.integer({ min: 5, max: 300 }),
      dropout: fc.constantFrom(0, 0.2),
      seed: fc.integer({ min: 1, max: 1000 }),
    });
    const check = ({
      count,
      samples,
      policy,
      mlpTileTokens,
      dropout,
      seed,
    }: typeof drawn extends fc.Arbitrary<infer Drawn> ? Drawn : never): void => {
      const sized = samples.map(({ textTokens, images, labels }) => ({
        ...{ textTokens, images },
        labelTokens: Math.max(1, Math.floor(labels * textTokens)),
      }));
      const options = dropout > 0 ? { lora: { ...lora, dropout }, dropoutSeed: BigInt(seed) } : {};
      compare(count, batchOf(sized, seed), { ...policyOf(POLICIES[policy]), mlpTileTokens }, options);
    };
    fc.assert(fc.property(drawn, check), { numRuns: 8 });
  });

  it("start the same collectives, whatever their rows hold", () => {
    const policy = policyOf({ headGroups: 2 });
    const text = compare(4, batchOf([{ textTokens: 99, labelTokens: 1 }]), policy);
    expect(text.filter((each) => each.startsWith("exchange"))).toHaveLength(2 * (3 * 7 + 5)); // recomputed layers, and the last one;
    expect(text.filter((each) => each.startsWith("sum"))).toEqual(["sum float64 [1]"]);
    const pictures = compare(4, batchOf([{ textTokens: 5, images: 2, labelTokens: 2 }]), policy);
    expect(pictures.filter((each) => each.startsWith("sum"))).toEqual([
      "sum float64 [1,19,32]",
      "sum float64 [1,19,32]",
      "sum float64 [2]",
    ]);
  });

  it("evaluate each sample as one process does", () => {
    const policy = policyOf({});
    const one = runToEnd(evalStep(modelFor(policy), lora, batch, policy));
    const { results } = together(3, (sharers) =>
      runToEnd(evalStep(modelFor(policy), lora, batch, policy, { sharers })),
    ) as { results: EvalResult[] };
    for (const { samples, loss } of results) {
      expect(loss).toBeCloseTo(one.loss, 12);
      samples.forEach(({ lossSum, labelTokens }, index) => {
        expect(labelTokens).toBe(one.samples[index]!.labelTokens);
        expect(lossSum).toBeCloseTo(one.samples[index]!.lossSum, 10);
      });
    }
  });

  it("are refused where they do not divide the heads", () => {
    expect(() => refuseUnevenHeads({ kvHeads: 8 }, 3)).toThrow(
      "sequence_parallel 3 does not divide the model's 8 key/value heads",
    );
    const policy = policyOf({ headGroups: 12 });
    const step = trainStep(modelFor(policy), lora, batch, policy, {
      lossScale: 1,
      sharers: plannedPeers(0, 4),
    });
    expect(() => runToEnd(step)).toThrow(
      "12 head groups, which do not divide 6 kv heads of each of the 4 ranks",
    );
  });
});
