/**
 * One micro-batch under one policy: vision, embeddings, decoder layers, loss, and back, segment by segment.
 * At each yield the caller may return to the event loop; between yields no scope is open, and what lives on
 * belongs to the step's owner.
 */
import type { MicroBatch } from "../data/stream/batches.ts";
import { familyOf } from "../models/families.ts";
import { embedText, placeImage_ } from "../models/inputRows.ts";
import type { Lora } from "../models/lora.ts";
import { fetchPart, partOnDevice } from "../models/parts.ts";
import type { Model } from "../models/weights.ts";
import { headLoss_ } from "../nn/loss.ts";
import { kindsOf, type Rows } from "../nn/rows.ts";
import { cat } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import { LateNumbers } from "../torch/lateNumbers.ts";
import { Owner } from "../torch/owner.ts";
import { ALONE, type Peers } from "../torch/peers/peers.ts";
import { dispose, scope, type Tensor } from "../torch/tensor.ts";
import { repeated, repeatedSteps } from "../torch/trace.ts";
import { type Boundary, copyBoundary, freeBoundary, saveBoundary, settleBoundary } from "./boundaries.ts";
import {
  type Body,
  type LayerRun,
  lastLayerBackward,
  lastLayerForward,
  layerBackward,
  layerForward,
  leaveDeepstack,
  prepareLayers,
} from "./layers.ts";
import { backwardVisits, forwardVisits } from "./layerWeights.ts";
import { normOfGradients } from "./optimizer/optimizer.ts";
import type { Parameter } from "./optimizer/updateTile.ts";
import { lossesOfAll, type OwnRows, ownRowsOf, sampleRows } from "./ownRows.ts";
import type { StepPhase } from "./phases.ts";
import type { Policy } from "./policy.ts";
import { type PictureRoom, roomForImage, unitsOf } from "./sharedImages.ts";

export interface StepResult {
  /** Sum of the negative log likelihood over the labels, and their mean. */
  lossSum: number;
  loss: number;
  labelTokens: number;
}

export interface EvalResult extends StepResult {
  /** Loss and labels of each packed sample, in order. */
  samples: { lossSum: number; labelTokens: number }[];
}

export interface TrainResult extends StepResult {
  /** L2 norm of the gradients, where it was asked for. */
  gradientNorm: number | undefined;
}

export interface TrainStepOptions {
  /** Gradients are of lossScale times the mean loss over the micro-batch's labels. */
  lossScale: number;
  /** Names run and micro-batch; the masks of LoRA dropout follow from it. Without it nothing is dropped. */
  dropoutSeed?: bigint;
  /** Parameters whose gradient norm comes together with the loss. */
  normOf?: readonly Parameter[] | undefined;
  /**
   * Ranks that share the rows of the micro-batch, which all of them are given. Each adds the gradients of
   * its rows: the micro-batch's gradients are the sum over these ranks. Losses are those of all rows on
   * each rank.
   */
  sharers?: Peers | undefined;
}

/** A micro-batch whose work is all queued, though the card may still be computing. The reader disposes it. */
export interface QueuedStep extends Disposable {
  /**
   * L2 norm of the gradients if it was asked for, (), on the device; NaN if a loss is not finite. The caller
   * disposes it.
   */
  norm: Tensor | undefined;
  /** Whether it is done, so that nobody waits. */
  isDone: boolean;
  /** Whether the device is still busy with it. */
  isBusy: () => boolean;
  /** Settles when it is done, while the event loop goes on. */
  arrival(): Promise<void>;
  /** Waits for the device as far as it has to, once. */
  read(): TrainResult;
}

/**
 * Runs forward and backward of a micro-batch: adds its gradients to those of the LoRA factors, and waits for
 * its loss.
 */
export function* trainStep(
  model: Model,
  lora: Lora,
  batch: MicroBatch,
  policy: Policy,
  options: TrainStepOptions,
): Generator<StepPhase, TrainResult> {
  using queued = yield* queueStep(model, lora, batch, policy, options);
  dispose(queued.norm);
  return queued.read();
}

/**
 * Queues a micro-batch without waiting for the device: the host goes on to queue the next work, and reads the
 * loss then.
 */
export function* queueStep(
  model: Model,
  lora: Lora,
  batch: MicroBatch,
  policy: Policy,
  { lossScale, dropoutSeed, normOf, sharers = ALONE }: TrainStepOptions,
): Generator<StepPhase, QueuedStep> {
  using owner = new Owner();
  const own = ownRowsOf(batch, sharers);
  const run = prepareLayers(model, lora, batch, policy, { owner, own, dropoutSeed });
  const hidden = yield* embed(model, batch, own, policy, run);
  const { boundaries, states } = yield* forward(run, hidden);
  const gradientScale = lossScale / Math.max(1, own.labels.rows.length);
  const losses = owner.own(lossOf(model, states, own, policy, gradientScale));
  yield { phase: "loss", done: 1, total: 1 };
  yield* backward(run, boundaries, states, hidden); // states are their gradient now
  return queuedOf(losses, normOf);
}

/** losses: (M). What they and the norm come to goes to the host at once, in one piece. */
function queuedOf(losses: Tensor, normOf: readonly Parameter[] | undefined): QueuedStep {
  return scope(() => {
    const norm = normOf && normOfGradients(normOf).to({ dtype: losses.dtype });
    const guarded = norm && scope(() => norm.add(losses.mul(0).mean())); // 0, or NaN
    const numbers = new LateNumbers(norm ? cat([norm.view([1]), losses]) : losses);
    return {
      norm: guarded,
      isDone: numbers.areThere,
      isBusy: () => numbers.areComing,
      arrival: () => numbers.arrival(),
      read: () => {
        const values = numbers.read();
        return norm
          ? { ...resultOf(values.subarray(1)), gradientNorm: values[0] }
          : { ...resultOf(values), gradientNorm: undefined };
      },
      [Symbol.dispose]: () => numbers[Symbol.dispose](),
    };
  });
}

/** Loss of a micro-batch and of each of its samples, forward only. sharers: as in TrainStepOptions. */
export function* evalStep(
  model: Model,
  lora: Lora | undefined,
  batch: MicroBatch,
  policy: Policy,
  { sharers = ALONE }: Pick<TrainStepOptions, "sharers"> = {},
): Generator<StepPhase, EvalResult> {
  using owner = new Owner();
  const own = ownRowsOf(batch, sharers);
  const { labels } = own;
  const run = prepareLayers(model, lora, batch, policy, { owner, own });
  const hidden = yield* embed(model, batch, own, policy, run);
  run.weights.begin(visitsForward(run));
  for (let layer = 0; layer < run.count - 1; layer++) {
    yield* repeatedSteps(run.times[layer]!, () => layerForward(run, layer, hidden));
    leaveDeepstack(run, layer);
    yield { phase: "forward", done: layer + 1, total: run.count };
  }
  const states = yield* lastLayerForward(run, hidden, { trains: false });
  yield { phase: "forward", done: run.count, total: run.count };
  const losses = scope(() => new LateNumbers(lossOf(model, states, own, policy)).read());
  const samples = sampleRows(batch).map(({ start, end }) => {
    const own = losses.filter((_, label) => labels.rows[label]! >= start && labels.rows[label]! < end);
    return { lossSum: sumOf(own), labelTokens: own.length };
  });
  return { ...resultOf(losses), samples };
}

/**
 * Returns the decoder's input in the own rows, (T, C): embeddings of text, and image tokens in their rows.
 */
function* embed(
  model: Model,
  batch: MicroBatch,
  own: OwnRows,
  policy: Policy,
  { owner, deepstack }: LayerRun,
): Generator<StepPhase, Tensor> {
  const hidden = category("workingSet", () => owner.own(embedText(model, own.inputIds)));
  if (batch.imageSlices.length > 0)
    yield* placeImages(model, batch, { hidden, own, deepstack, visionBatch: policy.visionBatchTiles }, owner);
  else model.shared?.gathering.passBy("vision"); // other ranks may have pictures
  return hidden;
}

/**
 * Writes the image tokens into their rows of hidden, (T, C), and the features for the first layers. A tower
 * on the host is fetched, and freed at the end.
 */
function* placeImages(
  model: Model,
  batch: MicroBatch,
  { hidden, own, deepstack, visionBatch }: PictureRoom & { visionBatch: number },
  owner: Owner,
): Generator<StepPhase, void> {
  const fetch = owner.own(fetchPart(model, "vision"));
  fetch.expose(); // encoding cannot begin without it
  const ready = { ...model, vision: fetch.wait() };
  const { unitsApart } = familyOf(model.config).pictures;
  const unitsHere = (image: number): Rows | undefined =>
    unitsOf(batch.images[image]!, image, own, unitsApart);
  const kindOf = ({ image }: { image: number }): string => {
    const { tokens, units } = batch.images[image]!;
    const { start = 0, end = units } = unitsHere(image) ?? {};
    return `${tokens} ${units} ${start} ${end}`;
  };
  for (const { part, index, times } of kindsOf(batch.imageSlices, kindOf)) {
    const counted = <T>(body: Body<T>): T =>
      category<T>("visionFeatures", (() => repeated(times, body)) as Body<T>);
    const picture = batch.images[part.image]!;
    const room = counted(() => roomForImage(batch.imageSlices, index, { hidden, own, deepstack }));
    const held = owner.own(room.held);
    const [rows, ...features] = room.parts;
    const units = unitsHere(part.image);
    const parts = placeImage_(rows, ready, picture, visionBatch, { units, deepstack: features });
    let total = 1;
    while (units === undefined || units.start < units.end) {
      const { done: isEncoded, value } = counted(() => parts.next());
      if (isEncoded) break;
      total = value.total;
      yield { phase: "vision", done: Math.min(value.done, total - 1), total };
    }
    counted(() => room.settle());
    owner.free(held);
    yield { phase: "vision", done: total, total }; // a tower's own count may end early, or never in a plan
  }
  owner.free(fetch);
}

/**
 * Runs all layers in place on hidden, (T, C), and keeps the input of each as its policy says. states: the
 * output in rows with a label, (M, C).
 */
function* forward(
  run: LayerRun,
  hidden: Tensor,
): Generator<StepPhase, { boundaries: Boundary[]; states: Tensor }> {
  const boundaries: Boundary[] = [];
  run.weights.begin(visitsForward(run));
  let states: Tensor | undefined;
  for (let layer = 0; layer < run.count; layer++) {
    const { boundary: place, keep } = run.policies[layer]!;
    const boundary = saveBoundary(hidden, place, run.owner);
    boundaries.push(boundary);
    if (layer === run.count - 1) states = yield* lastLayerForward(run, hidden, { trains: true, boundary });
    else yield* repeatedSteps(run.times[layer]!, () => layerForward(run, layer, hidden, { keep, boundary }));
    leaveDeepstack(run, layer);
    yield { phase: "forward", done: layer + 1, total: run.count };
  }
  return { boundaries, states: states! };
}

/** The layers that the forward visits: all, but in an abridged plan. */
function visitsForward({ count, times }: LayerRun): number[] {
  return forwardVisits(count).filter((layer) => times[layer] !== 0);
}

/**
 * Runs all layers backward for the gradient of the output, (M, C). gradient: room for the gradient of the
 * layers' inputs, (T, C).
 */
function* backward(
  run: LayerRun,
  boundaries: Boundary[],
  states: Tensor,
  gradient: Tensor,
): Generator<StepPhase, void> {
  run.weights.begin(backwardVisits(run.policies).filter((layer) => run.times[layer] !== 0));
  for (let layer = run.count - 1; layer >= 0; layer--) {
    if (boundaries[layer]!.at === "none")
      yield* repeatedSteps(run.times[layer]!, () => restoreBoundaries(run, boundaries, layer));
    const boundary = boundaries[layer]!;
    const around = { boundary, next: nextRecomputed(run, boundaries, layer) };
    if (layer === run.count - 1) yield* lastLayerBackward(run, around, states, gradient);
    else yield* repeatedSteps(run.times[layer]!, () => layerBackward(run, layer, around, gradient));
    freeBoundary(boundary, run.owner);
    yield { phase: "backward", done: run.count - layer, total: run.count };
  }
}

/**
 * Returns the boundary that the layer after this one in the backward is recomputed from, if it is there yet.
 */
function nextRecomputed(
  { policies, times }: LayerRun,
  boundaries: readonly Boundary[],
  layer: number,
): Boundary | undefined {
  const next = times.findLastIndex((count, index) => index < layer && count > 0);
  return next >= 0 && policies[next]!.keep === "nothing" ? boundaries[next] : undefined;
}

/**
 * Recomputes from the nearest saved boundary up to `layer`, saving the boundaries on the way if the first is
 * on the host.
 */
function* restoreBoundaries(
  run: LayerRun,
  boundaries: Boundary[],
  layer: number,
): Generator<StepPhase, void> {
  const from = boundaries.findLastIndex(({ at }, index) => index < layer && at !== "none");
  const { at } = boundaries[from]!;
  const hidden = category("boundaryActivations", () =>
    copyBoundary(boundaries[from]!, run.device, run.owner),
  );
  for (let index = from; index < layer; index++) {
    for (const _ of layerForward(run, index, hidden, { boundary: boundaries[index] })) {
      yield { phase: "backward", done: run.count - 1 - layer, total: run.count };
    }
    if (index + 1 < layer || at === "host") boundaries[index + 1] = saveBoundary(hidden, at, run.owner);
  }
  settleBoundary(boundaries[layer]!, run.owner);
  if (at === "host") run.owner.free(hidden);
  else boundaries[layer] = { at: "device", hidden };
}

/**
 * Returns losses of all rows with a label, (M). If a scale is given, states, those of the own rows, become
 * their gradient.
 */
function lossOf(
  model: Model,
  states: Tensor,
  own: OwnRows,
  { lossChunkTokens }: Policy,
  gradientScale?: number,
): Tensor {
  const body = (): Tensor => {
    const options = {
      norm: { weight: model.norm, eps: model.config.rmsEps },
      head: partOnDevice(model, "head"),
      chunkTokens: lossChunkTokens,
    };
    return lossesOfAll(headLoss_(states, own.ownLabels.targets, options, gradientScale), own);
  };
  return category("loss", () => scope(body));
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
