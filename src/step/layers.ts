/**
 * The decoder layers of a step: weights joined with LoRA branches, and each layer's forward and backward
 * under its policy.
 */
import type { MicroBatch } from "../data/stream/batches.ts";
import { askedFrom, type Sequence } from "../models/attentionGroups.ts";
import {
  attentionBackward_,
  attentionForward_,
  type KeptAttention,
  type KeptMlp,
  type Layer,
  mlpBackward_,
  mlpForward_,
} from "../models/decoder.ts";
import { addDeepstack_, type Deepstack, emptyDeepstack, featuresOf } from "../models/deepstack.ts";
import { familyOf } from "../models/families.ts";
import { joinLayer } from "../models/join.ts";
import type { Lora } from "../models/lora.ts";
import type { Place, Places } from "../models/places.ts";
import { type MlpRows, pickRows, ploraRowsOf } from "../models/tiles.ts";
import type { LayerWeights, Model } from "../models/weights.ts";
import type { PackedLengths } from "../nn/attention/calls.ts";
import { type AttentionShape, packedLengths, takesLastRows } from "../nn/attention/kernels.ts";
import { ropeTables } from "../nn/attention/rope.ts";
import { clipRows, type RowSource } from "../nn/rows.ts";
import { fromArray } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import type { Device } from "../torch/dtypes.ts";
import type { Owner } from "../torch/owner.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { isAbridging } from "../torch/trace.ts";
import { type Boundary, boundaryRows, copyBoundary, fetchBoundary, settleBoundary } from "./boundaries.ts";
import { type LayerSource, layerSource } from "./layerWeights.ts";
import { clipToOwn, type OwnRows, paddedPositions } from "./ownRows.ts";
import type { StepPhase } from "./phases.ts";
import { type LayerPolicy, layerPolicies, type Policy, placesOf, ploraOf } from "./policy.ts";

/**
 * Values that a layer keeps from forward to backward: its MLP's input, (T, C) or (M, C) of the last layer,
 * and inner values.
 */
interface Kept {
  middle: Tensor;
  attention: KeptAttention | undefined;
  mlp: KeptMlp | undefined;
}

/** The layers of one micro-batch, over the rows that this rank has of it. */
export interface LayerRun {
  readonly count: number;
  readonly device: Device;
  readonly policies: readonly LayerPolicy[];
  readonly owner: Owner;
  readonly sequence: Sequence;
  /**
   * The sequence of the last layer's attention, whose output is needed only from the first row with a label
   * on, if the kernel can do that.
   */
  readonly lastSequence: Sequence;
  /** Features of the pictures, which the first layers add; embedding fills them. */
  readonly deepstack: Deepstack | undefined;
  /** Rows with a label, (M) int64, and what the last layer's MLP sees of them. */
  readonly labelled: { rows: Tensor; numbers: Int32Array; seen: MlpRows };
  readonly reuseAttention: boolean;
  readonly boundaryAhead: boolean;
  readonly weights: LayerSource;
  /** The layer ready for use with its weights; LoRA factors in the compute dtype belong to the open scope. */
  readonly join: (index: number, weights: LayerWeights) => Layer;
  readonly kept: Map<number, Kept>;
  /** How many layers each stands for: itself, but in an abridged plan. */
  readonly times: readonly number[];
}

/** Returns room for the features of the pictures in the own rows. */
function ownDeepstack(
  model: Model,
  { imageSlices }: MicroBatch,
  { rows }: OwnRows,
  owner: Owner,
): Deepstack | undefined {
  const slices = imageSlices.map((slice) => clipRows([slice], rows)[0] ?? { start: 0, end: 0 });
  const deepstack = emptyDeepstack(model, slices);
  return deepstack && owner.own(deepstack);
}

/**
 * Frees the features of pictures after the last layer that adds them, unless one of these layers is computed
 * again.
 */
export function leaveDeepstack({ deepstack, policies, owner }: LayerRun, layer: number): void {
  const layers = deepstack?.values.shape[0];
  if (layers !== layer + 1) return;
  const firstRecomputed = policies.findIndex(({ boundary }) => boundary === "none");
  const restoredFrom = firstRecomputed - 1; // the boundary before the first that is missing
  if (firstRecomputed < 0 || restoredFrom >= layers) owner.free(deepstack);
}

/** Joins model, adapter, micro-batch and policy. */
export function prepareLayers(
  model: Model,
  lora: Lora | undefined,
  batch: MicroBatch,
  policy: Policy,
  { owner, own, dropoutSeed }: { owner: Owner; own: OwnRows; dropoutSeed?: bigint | undefined },
): LayerRun {
  const { config, dtype, device } = model;
  const { kvHeads } = config;
  refuseOtherModel(model, policy);
  const rope = category("inputData", () =>
    owner.own(ropeTables(paddedPositions(config, batch, own), config, { dtype, device })),
  );
  const { rows: labelRows } = own.ownLabels;
  const rows = category("inputData", () =>
    owner.own(fromArray(labelRows, [labelRows.length], { dtype: "int64", device })),
  );
  const policies = layerPolicies(policy, config, own.sharers.count);
  const shape = attentionShape(model, own, policy);
  const ploraRows = batch.branchRows ?? ploraRowsOf(model, batch.imageSlices, own.tokens);
  const sequence: Sequence = {
    rope,
    shape: { ...shape, lengths: lengthsOf(shape, model, owner) },
    ploraRows: clipToOwn(ploraRows, own),
    ...{ sharers: own.sharers, first: own.rows.start, kvHeads },
    qkv: (kvHead) => familyOf(config).qkv(config, kvHead),
    headGroups: policy.headGroups,
    attentionInput: policy.attentionInput,
    plora: ploraOf(policy).branch,
    mlpTileTokens: policy.mlpTileTokens,
  };
  return {
    count: config.layers,
    device,
    policies,
    times: timesOf(policies),
    owner,
    sequence,
    lastSequence: lastSequenceOf(sequence, labelRows, model, owner),
    deepstack: ownDeepstack(model, batch, own, owner),
    labelled: { rows, numbers: labelRows, seen: pickRows(sequence, labelRows) },
    reuseAttention: policy.reuseAttention,
    boundaryAhead: policy.boundaryAhead,
    weights: owner.own(layerSource(model, policy.weights.aheadLayers)),
    join: (index, weights) => joinLayer(model, lora, index, { dropoutSeed, weights }),
    kept: new Map(),
  };
}

/**
 * Ranks that share the rows attend to one query head of each kv head at a time: all rows of a head are much
 * beside a rank's own rows.
 */
function attentionShape(
  { config }: Model,
  { samples, sharers }: OwnRows,
  { attention }: Policy,
): AttentionShape {
  return {
    ...{ Q: config.heads / config.kvHeads, D: config.headDim, samples },
    kernel: attention === "measured" ? undefined : attention,
    queryHeads: sharers.count > 1 ? 1 : undefined,
  };
}

/** They go to the device once, for all layers and groups of heads. */
function lengthsOf(shape: AttentionShape, target: Model, owner: Owner): PackedLengths | undefined {
  const lengths = category("inputData", () => packedLengths(shape, target));
  return lengths && owner.own(lengths);
}

/**
 * Every sample has a query at least: a kernel need not know what to do without. Ranks that share the rows
 * compute all of them, so that they exchange equal parts.
 */
function lastSequenceOf(sequence: Sequence, labelRows: Int32Array, model: Model, owner: Owner): Sequence {
  const { shape, sharers } = sequence;
  if (sharers && sharers.count > 1) return sequence;
  const lastOfFirst = shape.samples[0]!.end - 1;
  const firstQuery = Math.min(labelRows[0] ?? lastOfFirst, lastOfFirst);
  if (firstQuery === 0 || !takesLastRows(model, shape.kernel)) return sequence;
  return askedFrom(sequence, firstQuery, lengthsOf({ ...shape, firstQuery }, model, owner));
}

/** Layers at either end of a stretch that a plan goes through: more than are fetched ahead. */
const ENDS = 4;
/** After how many layers a policy is seen to repeat. */
const PERIODS = [1, 2, 4, 8];

/**
 * Returns how many layers each one stands for. In an abridged plan the first period of a stretch that
 * repeats, and leaves nothing but boundaries, stands for its middle.
 */
function timesOf(policies: readonly LayerPolicy[]): number[] {
  const times = policies.map(() => 1);
  for (let start = 0; isAbridging() && start < policies.length; ) {
    const { end, period } = stretchFrom(policies, start);
    const ends = period * Math.ceil(ENDS / period);
    const left = Math.max(0, Math.floor((end - start - 2 * ends) / period));
    if (left > 0) times.fill(1 + left, start + ends - period, start + ends);
    times.fill(0, start + ends, start + ends + left * period);
    start = end;
  }
  return times;
}

/** The longest stretch from a layer on whose policies repeat. */
function stretchFrom(policies: readonly LayerPolicy[], start: number): { end: number; period: number } {
  const stretches = PERIODS.map((period) => {
    let end = start + period;
    while (end < policies.length && isSame(policies[end]!, policies[end - period]!)) end++;
    return { end, period };
  });
  const first = policies.slice(start);
  return stretches
    .filter(({ end }) => first[0]!.boundary !== "none" && first.slice(0, end - start).every(keepsNothing))
    .reduce((best, other) => (other.end > best.end + other.period ? other : best), {
      end: start + 1,
      period: 1,
    });
}

function keepsNothing({ keep }: LayerPolicy): boolean {
  return keep === "nothing";
}

function isSame(one: LayerPolicy, other: LayerPolicy): boolean {
  return one.boundary === other.boundary && one.keep === other.keep;
}

/** A policy is only kept where the model was loaded for it. */
function refuseOtherModel({ places, folded }: Model, policy: Policy): void {
  if (ploraOf(policy).folded !== folded)
    throw new Error(
      `the policy has PLoRA ${policy.plora}; the model was loaded with it ${folded ? "" : "not "}folded`,
    );
  for (const [part, place] of Object.entries(placesOf(policy)) as [keyof Places, Place][]) {
    if (places[part] !== place)
      throw new Error(`the policy wants ${part} on the ${place}; the model has them on the ${places[part]}`);
  }
}

/**
 * Adds attention, then the MLP, to hidden, (T, C), in place, whose boundary may still be on its way; keeps
 * what the policy says.
 */
export function* layerForward(
  run: LayerRun,
  index: number,
  hidden: Tensor,
  { keep = "nothing", boundary }: { keep?: LayerPolicy["keep"]; boundary?: Boundary | undefined } = {},
): Generator<StepPhase, void> {
  const weights = run.weights.enter(index);
  const keeps = keep === "attention" || keep === "all";
  const beforeWrite = (): void => boundary && settleBoundary(boundary, run.owner);
  const attention = ownedSegment(run, () =>
    attentionForward_(hidden, run.join(index, weights), run.sequence, {
      keeps,
      beforeWrite,
      ...(keeps && { keptAs: "boundaryActivations" }),
    }),
  );
  const middle =
    keep === "nothing" ? undefined : category("boundaryActivations", () => run.owner.own(hidden.clone()));
  yield { phase: "forward", done: index, total: run.count };
  const mlp = ownedSegment(run, () =>
    mlpForward_(hidden, run.join(index, weights), run.sequence, keep === "all"),
  );
  segment(() => addDeepstack_(hidden, run.deepstack, index));
  run.weights.leave();
  if (middle) run.kept.set(index, { middle, attention, mlp });
}

/**
 * Computes the last layer, whose output only rows with a label need. Its MLP runs on those rows, its
 * attention on all rows from the first of them on. hidden, (T, C), is the attention's output there
 * afterwards. Returns the output in rows with a label, (M, C), which the run owns. Its backward is next, so
 * with `trains` its attention is kept where a recomputed one would be.
 */
export function* lastLayerForward(
  run: LayerRun,
  hidden: Tensor,
  { trains, boundary }: { trains: boolean; boundary?: Boundary | undefined },
): Generator<StepPhase, Tensor> {
  const index = run.count - 1;
  const { keep } = run.policies[index]!;
  const { rows, seen } = run.labelled;
  const weights = run.weights.enter(index);
  const keeps = trains && (run.reuseAttention || keep === "attention" || keep === "all");
  const attention = ownedSegment(run, () =>
    attentionForward_(hidden, run.join(index, weights), run.lastSequence, {
      keeps,
      beforeWrite: () => boundary && settleBoundary(boundary, run.owner),
    }),
  );
  const states = ownedSegment(run, () => hidden.indexSelect(0, rows)); // (M, C)
  const middle = trains ? ownedSegment(run, () => states.clone()) : undefined;
  yield { phase: "forward", done: index, total: run.count };
  const mlp = ownedSegment(run, () =>
    mlpForward_(states, run.join(index, weights), seen, trains && keep === "all"),
  );
  segment(() => addToLabelled_(states, run, index));
  run.weights.leave();
  if (middle) run.kept.set(index, { middle, attention, mlp });
  return states;
}

/** Adds the last layer's features, if it has any, to the pictures' rows with a label. states: (M, C). */
function addToLabelled_(states: Tensor, { deepstack, labelled: { numbers } }: LayerRun, layer: number): void {
  if (!deepstack || layer >= deepstack.values.shape[0]!) return;
  for (const [picture, { start, end }] of deepstack.slices.entries())
    for (const [label, row] of numbers.entries())
      if (row >= start && row < end)
        states.narrow(0, label, 1).add_(featuresOf(deepstack, picture)[layer]!.narrow(0, row - start, 1));
}

/**
 * Turns gradient, (T, C), into the gradient of the last layer's input. states: the gradient of
 * lastLayerForward's result, (M, C), which is freed.
 */
export function* lastLayerBackward(
  run: LayerRun,
  { boundary, next }: { boundary: Boundary; next: Boundary | undefined },
  states: Tensor,
  gradient: Tensor,
): Generator<StepPhase, void> {
  const index = run.count - 1;
  const weights = run.weights.enter(index);
  const { middle, attention, mlp } = run.kept.get(index)!;
  run.kept.delete(index);
  if (next && run.boundaryAhead) fetchBoundary(next, run.device, run.owner);
  segment(() => mlpBackward_(states, middle, run.join(index, weights), run.labelled.seen, mlp));
  run.owner.free(mlp);
  run.owner.free(middle);
  segment(() => void gradient.zero_().indexCopy_(0, run.labelled.rows, states));
  run.owner.free(states);
  yield { phase: "backward", done: 0, total: run.count };
  backAttention(run, index, { weights, sequence: run.lastSequence }, { boundary, attention }, gradient);
}

/**
 * Turns gradient, (T, C), from that of the layer's output into that of its input, in place. next: the
 * boundary that is needed after this layer.
 */
export function* layerBackward(
  run: LayerRun,
  index: number,
  { boundary, next }: { boundary: Boundary; next: Boundary | undefined },
  gradient: Tensor,
): Generator<StepPhase, void> {
  const weights = run.weights.enter(index);
  const { middle, attention, mlp } = run.kept.get(index) ?? recomputeAttention(run, index, weights, boundary);
  run.kept.delete(index);
  if (next && run.boundaryAhead) fetchBoundary(next, run.device, run.owner);
  const done = run.count - 1 - index;
  yield { phase: "backward", done, total: run.count };
  segment(() => mlpBackward_(gradient, middle, run.join(index, weights), run.sequence, mlp));
  run.owner.free(mlp);
  run.owner.free(middle);
  yield { phase: "backward", done, total: run.count };
  backAttention(run, index, { weights, sequence: run.sequence }, { boundary, attention }, gradient);
}

function backAttention(
  run: LayerRun,
  index: number,
  { weights, sequence }: { weights: LayerWeights; sequence: Sequence },
  { boundary, attention }: { boundary: Boundary; attention: KeptAttention | undefined },
  gradient: Tensor,
): void {
  segment(() => {
    using input = inputRows(run, boundary);
    attentionBackward_(gradient, input, run.join(index, weights), sequence, attention);
  });
  run.owner.free(attention);
  run.weights.leave();
}

function recomputeAttention(run: LayerRun, index: number, weights: LayerWeights, boundary: Boundary): Kept {
  const middle = category("workingSet", () => copyBoundary(boundary, run.device, run.owner));
  const again = run.sequence.attentionInput === "recomputed"; // else the rows are read before middle is written to
  const attention = ownedSegment(run, () => {
    using input = again ? inputRows(run, boundary) : undefined;
    const options = { input, keeps: run.reuseAttention };
    return attentionForward_(middle, run.join(index, weights), run.sequence, options);
  });
  return { middle, attention, mlp: undefined };
}

function inputRows({ device, owner, sequence }: LayerRun, boundary: Boundary): RowSource & Disposable {
  return boundaryRows(boundary, { device, owner, tileTokens: sequence.mlpTileTokens });
}

/** A function whose work is done when it returns. */
export type Body<T> = () => T extends PromiseLike<unknown> ? never : T;

/** One segment: its temporaries die with it. */
function segment<T>(body: Body<T>): T {
  return category<T>("workingSet", (() => scope(body)) as Body<T>);
}

/** A segment whose result lives on in the run's care. */
function ownedSegment<T>(run: LayerRun, body: Body<T>): T {
  return run.owner.own(segment(body));
}
