/**
 * One micro-batch under one policy: vision, embeddings, decoder layers, loss, and back, segment by segment. Each yield is a point where
 * the caller may give way to the event loop; between yields no scope is open, and what lives on belongs to the step's owner.
 */
import type { MicroBatch } from "../data/batches.ts";
import type { Lora } from "../models/lora.ts";
import type { Model } from "../models/weights.ts";
import { embedText, placeImage_ } from "../models/xcomposer.ts";
import { headLoss, type Labels, labelsOf } from "../nn/loss.ts";
import { rowsOf } from "../nn/rows.ts";
import { category } from "../torch/device.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { type Boundary, copyBoundary, saveBoundary, takeBoundary } from "./boundaries.ts";
import { type LayerRun, layerBackward, layerForward, prepareLayers, sampleRows } from "./layers.ts";
import { Owner } from "./owner.ts";
import type { Policy } from "./policy.ts";

export type StepPhase = { phase: "vision" | "forward" | "loss" | "backward"; done: number; total: number };

export interface StepResult {
  /** Sum of the negative log likelihood over the labels, and their mean. */
  lossSum: number;
  loss: number;
  labelTokens: number;
}

export interface EvalResult extends StepResult {
  /** Of each packed sample, in order. */
  samples: { lossSum: number; labelTokens: number }[];
}

export interface TrainStepOptions {
  /** Gradients are of lossScale times the mean loss over the micro-batch's labels. */
  lossScale: number;
  /** Names run and micro-batch; the masks of LoRA dropout follow from it. Without it nothing is dropped. */
  dropoutSeed?: bigint;
}

/** Forward and backward of a micro-batch: adds its gradients to those of the LoRA factors. */
export function* trainStep(
  model: Model,
  lora: Lora,
  batch: MicroBatch,
  policy: Policy,
  { lossScale, dropoutSeed }: TrainStepOptions,
): Generator<StepPhase, StepResult> {
  using owner = new Owner();
  const labels = labelsOf(batch.targets);
  const run = prepareLayers(model, lora, batch, policy, { owner, dropoutSeed });
  const hidden = yield* embed(model, batch, policy, owner);
  const boundaries = yield* forward(run, hidden);
  const { losses, gradient } = lossAndGradient(model, hidden, labels, policy, lossScale);
  owner.own(gradient);
  owner.free(hidden);
  yield { phase: "loss", done: 1, total: 1 };
  yield* backward(run, boundaries, gradient);
  return resultOf(losses);
}

/** Loss of a micro-batch and of each of its samples, forward only. */
export function* evalStep(
  model: Model,
  lora: Lora | undefined,
  batch: MicroBatch,
  policy: Policy,
): Generator<StepPhase, EvalResult> {
  using owner = new Owner();
  const labels = labelsOf(batch.targets);
  const run = prepareLayers(model, lora, batch, policy, { owner });
  const hidden = yield* embed(model, batch, policy, owner);
  for (let layer = 0; layer < run.count; layer++) {
    yield* layerForward(run, layer, hidden);
    yield { phase: "forward", done: layer + 1, total: run.count };
  }
  const losses = category("loss", () =>
    scope(() => numbersOf(headLoss(hidden, labels, headOf(model, policy)))),
  );
  const samples = sampleRows(batch).map(({ start, end }) => {
    const own = losses.filter((_, label) => labels.rows[label]! >= start && labels.rows[label]! < end);
    return { lossSum: sumOf(own), labelTokens: own.length };
  });
  return { ...resultOf(losses), samples };
}

/** The decoder's input, (T, C): embeddings of text, and image tokens in their rows. */
function* embed(model: Model, batch: MicroBatch, policy: Policy, owner: Owner): Generator<StepPhase, Tensor> {
  const hidden = category("workingSet", () => owner.own(embedText(model, batch.inputIds)));
  for (const { start, end, image } of batch.imageSlices) {
    const rows = owner.own(rowsOf(hidden, { start, end }));
    const tiles = placeImage_(rows, model, batch.images[image]!, policy.visionBatchTiles);
    for (;;) {
      const { done, value } = category("visionFeatures", () => tiles.next());
      if (done) break;
      yield { phase: "vision", ...value };
    }
    owner.free(rows);
  }
  return hidden;
}

/** All layers, in place on hidden, (T, C); the input of each is kept as its policy says. */
function* forward(run: LayerRun, hidden: Tensor): Generator<StepPhase, Boundary[]> {
  const boundaries: Boundary[] = [];
  for (let layer = 0; layer < run.count; layer++) {
    const { boundary, keep } = run.policies[layer]!;
    boundaries.push(saveBoundary(hidden, boundary, run.owner));
    yield* layerForward(run, layer, hidden, keep);
    yield { phase: "forward", done: layer + 1, total: run.count };
  }
  return boundaries;
}

/** All layers from the last, in place on the gradient of their output, (T, C). */
function* backward(run: LayerRun, boundaries: Boundary[], gradient: Tensor): Generator<StepPhase, void> {
  for (let layer = run.count - 1; layer >= 0; layer--) {
    if (boundaries[layer]!.at === "none") yield* restoreBoundaries(run, boundaries, layer);
    const input = takeBoundary(boundaries[layer]!, run.device, run.owner);
    yield* layerBackward(run, layer, input, gradient);
    run.owner.free(input);
    yield { phase: "backward", done: run.count - layer, total: run.count };
  }
}

/** Goes forward again from the last layer before that has a boundary, and keeps those up to `layer` on the device. */
function* restoreBoundaries(
  run: LayerRun,
  boundaries: Boundary[],
  layer: number,
): Generator<StepPhase, void> {
  const from = boundaries.findLastIndex(({ at }, index) => index < layer && at !== "none");
  const hidden = copyBoundary(boundaries[from]!, run.device, run.owner);
  for (let index = from; index < layer; index++) {
    yield* layerForward(run, index, hidden);
    if (index + 1 < layer) boundaries[index + 1] = saveBoundary(hidden, "device", run.owner);
  }
  boundaries[layer] = { at: "device", hidden };
}

/** Losses of the labels, and the gradient of the last hidden states, (T, C). */
function lossAndGradient(
  model: Model,
  hidden: Tensor,
  labels: Labels,
  policy: Policy,
  lossScale: number,
): { losses: Float32Array | Float64Array; gradient: Tensor } {
  return scope(() => {
    const gradient = category("workingSet", () => hidden.zerosLike());
    const target = { into: gradient, scale: lossScale / Math.max(1, labels.rows.length) };
    const losses = category("loss", () => headLoss(hidden, labels, headOf(model, policy), target));
    return { losses: numbersOf(losses), gradient };
  });
}

function headOf({ config, norm, head }: Model, { lossChunkTokens }: Policy): Parameters<typeof headLoss>[2] {
  return { norm: { weight: norm, eps: config.rmsEps }, head, chunkTokens: lossChunkTokens };
}

/** The one synchronisation of a step. On meta there are no numbers: NaN for each. */
function numbersOf(losses: Tensor): Float32Array | Float64Array {
  if (losses.device === "meta") return new Float32Array(losses.shape[0]!).fill(Number.NaN);
  return losses.toArray() as Float32Array | Float64Array;
}

function resultOf(losses: Float32Array | Float64Array): StepResult {
  const lossSum = sumOf(losses);
  return { lossSum, loss: lossSum / losses.length, labelTokens: losses.length };
}

function sumOf(values: Float32Array | Float64Array): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum;
}
