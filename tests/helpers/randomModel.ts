/** Small random models and micro-batches for tests that need no checkpoint. */

import { tileGrid } from "../../src/data/pictures/hdTiles/hdGrid.ts";
import type { HdImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import { blackImage } from "../../src/data/pictures/hdTiles/hdImage.ts";
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { tensorsOf } from "../../src/models/families.ts";
import type { ModelConfig } from "../../src/models/family.ts";
import {
  createLora,
  disposeLora,
  type Gradients,
  type Lora,
  type LoraFactor,
} from "../../src/models/lora.ts";
import { assembleModel, type LoadOptions, type Model } from "../../src/models/weights.ts";
import type { XComposerConfig } from "../../src/models/xcomposer2/spec.ts";
import type { VisionWeights } from "../../src/models/xcomposer2/visionWeights.ts";
import { mixSeed } from "../../src/nn/dropout.ts";
import { empty } from "../../src/torch/create.ts";
import { category } from "../../src/torch/device.ts";
import type { Device, DType } from "../../src/torch/dtypes.ts";
import { createGenerator } from "../../src/torch/random.ts";
import { keep, scope, type Tensor } from "../../src/torch/tensor.ts";

/** Returns the sizes of a model with a few thousand parameters. */
export function smallConfig(overrides: Partial<XComposerConfig> = {}): XComposerConfig {
  const plora = { rank: 6, scale: 1 };
  return {
    family: "xcomposer2-4khd",
    hidden: 32,
    layers: 2,
    heads: 4,
    kvHeads: 2,
    headDim: 8,
    ffn: 48,
    vocab: 97,
    rmsEps: 1e-5,
    ropeTheta: 1e6,
    maxPositions: 4096,
    bosId: 1,
    eosIds: [2],
    vision: { hidden: 16, layers: 1, heads: 2, ffn: 24, imagePixels: 336, patchPixels: 14, eps: 1e-5 },
    plora: {
      "attention.wqkv": { rank: 3, scale: 2 },
      "attention.wo": plora,
      "feed_forward.w1": plora,
      "feed_forward.w2": plora,
      "feed_forward.w3": plora,
    },
    ...overrides,
  };
}

/** Returns normal numbers with standard deviation `scale`. */
export function randomTensor(
  shape: readonly number[],
  seed: number,
  options: { dtype?: DType; device?: Device; scale?: number } = {},
): Tensor {
  const { dtype = "float64", device = "cpu", scale = 1 } = options;
  return scope(() => {
    using generator = createGenerator(BigInt(seed), device);
    return empty(shape, { dtype: dtype === "float64" ? dtype : "float32", device })
      .normal_({ std: scale, generator })
      .to({ dtype });
  });
}

/** Returns a model of random weights: norms near 1, all others small. */
export function randomModel(
  config: ModelConfig,
  {
    dtype = "float64",
    device = "cpu",
    seed = 1,
    ...bases
  }: Partial<LoadOptions> & { seed?: number | undefined } = {},
): Model {
  const tensors = tensorsOf(config);
  const numbers = new Map<string, number>();
  const numberOf = (name: string): number => {
    if (name.includes("Plora_A.")) numberOf(name.replace("Plora_A.", "")); // same number whichever of the two is read first
    const number = numbers.get(name) ?? numbers.size;
    numbers.set(name, number);
    return number;
  };
  const read = (name: string): Tensor => {
    const shape = tensors.get(name)?.shape;
    if (!shape) throw new Error(`no tensor ${name}`);
    if (device === "meta") return empty(shape, { dtype, device });
    const scale = shape.length === 1 ? 0.1 : 0.15;
    const noise = randomTensor(shape, seed * 1000 + numberOf(name), { dtype, scale }).to({ device }); // the same on every device
    return name.includes("norm.weight") || name.endsWith("norm1.weight") ? noise.add_(1) : noise;
  };
  return category("weights", () =>
    keep(scope(() => assembleModel(config, { dtype, device, ...bases }, read))),
  );
}

/** Returns the model's vision tower, and its configuration with the tower's sizes. */
export function visionOf({ vision, config }: Pick<Model, "vision" | "config">): {
  weights: VisionWeights;
  config: XComposerConfig;
} {
  return { weights: vision as VisionWeights, config: config as XComposerConfig };
}

/** Returns random factors. B is random too, so that no gradient is zero. */
export function randomLora(
  config: ModelConfig,
  {
    rank = 4,
    dropout = 0,
    seed = 7,
    device = "cpu" as Device,
    dtype = "float32" as DType,
    targets = ".",
    gradients = "fp32" as Gradients,
    copies = undefined as DType | undefined,
  } = {},
): Lora {
  const lora = createLora(config, {
    rank,
    alpha: 2 * rank,
    dropout,
    rslora: false,
    targets,
    seed,
    device,
    gradients,
    copies,
  });
  scope(() => {
    let index = 0;
    for (const module of lora.modules.values()) {
      using generator = createGenerator(mixSeed(BigInt(seed), index++, 99), device);
      module.b.value.normal_({ std: 0.1, generator });
    }
  });
  if (dtype === "float32") return lora;
  const cast = ({ value, gradient }: LoraFactor): LoraFactor =>
    keep(scope(() => ({ value: value.to({ dtype }), gradient: gradient!.to({ dtype }) })));
  const modules = [...lora.modules].map(
    ([name, { a, b, scale }]) => [name, { a: cast(a), b: cast(b), scale }] as const,
  );
  disposeLora(lora);
  return { ...lora, modules: new Map(modules) };
}

/** Tokens of a picture of 1 x 1 tiles. */
export const SMALL_IMAGE_TOKENS = 313;

/**
 * Returns packed samples, with pictures of one tile where a sample asks for them. A share of the text has
 * labels.
 */
export function randomBatch(
  config: ModelConfig,
  samples: { textTokens: number; images?: number; labelTokens?: number }[],
  seed = 3,
): MicroBatch {
  const random = lcg(seed);
  const inputIds: number[] = [];
  const targets: number[] = [];
  const imageSlices: MicroBatch["imageSlices"] = [];
  const images: MicroBatch["images"] = [];
  const sampleTokens = samples.map(
    ({ textTokens, images: count = 0, labelTokens = Math.ceil(textTokens / 3) }) => {
      const begin = inputIds.length;
      inputIds.push(config.bosId);
      for (let image = 0; image < count; image++) {
        imageSlices.push({
          start: inputIds.length,
          end: inputIds.length + SMALL_IMAGE_TOKENS,
          image: images.length,
        });
        images.push(randomImage(random));
        inputIds.push(...new Array(SMALL_IMAGE_TOKENS).fill(0));
      }
      for (let token = 0; token < textTokens; token++) inputIds.push(Math.floor(random() * config.vocab));
      const tokens = inputIds.length - begin;
      for (let at = 0; at < tokens; at++) {
        const labelled = at >= tokens - 1 - labelTokens && at < tokens - 1;
        targets.push(labelled ? inputIds[begin + at + 1]! : -100);
      }
      return tokens;
    },
  );
  return {
    inputIds: Int32Array.from(inputIds),
    targets: Int32Array.from(targets),
    sampleTokens,
    imageSlices,
    images,
    samples: samples.map((_, index) => ({ file: "random", index })),
    labelTokens: targets.filter((target) => target !== -100).length,
    epoch: 0,
  } as unknown as MicroBatch;
}

function randomImage(random: () => number): HdImage {
  return {
    ...tileGrid(1, 1),
    pixels: Uint8Array.from({ length: 336 * 336 * 3 }, () => Math.floor(random() * 256)),
    globalView: Float32Array.from({ length: 3 * 336 * 336 }, () => random() * 4 - 2),
  };
}

/** Returns a picture of zeros. */
export function blackPicture(rows: number, cols: number): HdImage {
  return blackImage(tileGrid(rows, cols));
}

/** Returns a generator of numbers in 0..1. */
export function lcg(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

/** Runs a step's generator to its end and returns its result. */
export function runToEnd<T>(step: Generator<unknown, T>): T {
  for (;;) {
    const { done, value } = step.next();
    if (done) return value;
  }
}

/** Returns the largest |a - b| divided by the largest |b|. */
export function relativeDifference(a: Tensor, b: Tensor): number {
  return scope(() => {
    const wide = (x: Tensor): Tensor => x.to({ dtype: "float64" });
    const difference = wide(a).sub(wide(b)).abs().max().item();
    return difference / Math.max(wide(b).abs().max().item(), Number.MIN_VALUE);
  });
}
