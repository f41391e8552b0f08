/**
 * Plans the official recipe's schedule, for comparison. Everything is resident. Each decoder layer is
 * checkpointed as a whole and recomputed under autograd. Logits of all rows are in float32. All tiles of a
 * picture go through the tower at once. Factors are in bfloat16, with float32 master copies and moments. This
 * plain version over the same operators is a lower bound, because it wastes less memory than the original.
 */

import { addDeepstack_, emptyDeepstack, featuresOf } from "../../models/deepstack.ts";
import { familyOf, linearNames, linearShape, positionsOf } from "../../models/families.ts";
import type { LinearName, QkvPart } from "../../models/family.ts";
import { embedText, placeImage_ } from "../../models/inputRows.ts";
import { disposeModel, type LayerWeights, type Model } from "../../models/weights.ts";
import { ropeTables } from "../../nn/attention/rope.ts";
import { frozenValues } from "../../nn/frozen/frozen.ts";
import type { Rows } from "../../nn/rows.ts";
import { rowsOf } from "../../nn/rows.ts";
import { DEFAULT_POLICY } from "../../step/policy.ts";
import { cat, empty, zeros } from "../../torch/create.ts";
import { CARD_ABILITIES, type Category, category } from "../../torch/device.ts";
import {
  _scaledDotProductEfficientAttention as efficient,
  _scaledDotProductFlashAttention as flash,
} from "../../torch/ops.gen.ts";
import { dispose, grad, keep, scope, type Tensor, withGrad } from "../../torch/tensor.ts";
import { type Card, capabilityOf } from "../time/cards.ts";
import { plannedBatch } from "./batchShapes.ts";
import type { Configuration } from "./configuration.ts";
import { type DryRun, observe } from "./dryRun.ts";
import { emptyModel } from "./sharedParts.ts";

interface Factors {
  a: Tensor;
  b: Tensor;
}

type LayerFactors = ReadonlyMap<LinearName, Factors>;

interface Context {
  model: Model;
  imageRows: readonly Rows[];
  rope: { cos: Tensor; sin: Tensor };
  hasFlash: boolean;
}

/**
 * Plans the official schedule for this model, micro-batch and rank on a card, with everything on the card.
 */
export function officialRun(asked: Omit<Configuration, "policy"> & { target: Card }): DryRun {
  const configuration = { ...asked, policy: DEFAULT_POLICY };
  return observe(configuration, ({ end }) => {
    const { model, mappedBytes } = emptyModel(configuration);
    const factors = held("loraParameters", () => emptyFactors(configuration));
    const gradients = held("loraGradients", () => emptyFactors(configuration));
    const copies = ["master", "mean", "square"].map(() =>
      held("optimizerState", () => emptyFactors(configuration, "float32")),
    );
    end("start");
    runStep(configuration, model, { factors, gradients }, end);
    for (const value of [factors, gradients, copies]) dispose(value);
    disposeModel(model);
    return { mappedBytes };
  });
}

function held<T>(what: Category, body: () => T extends PromiseLike<unknown> ? never : T): T {
  return category(what, () => keep(scope(body)) as never);
}

function emptyFactors({ model, lora: { rank }, dtype }: Configuration, as = dtype): LayerFactors[] {
  const like = { dtype: as, device: "meta" } as const;
  return Array.from({ length: model.layers }, () => {
    const factors = linearNames(model).map((name) => {
      const [rows, columns] = linearShape(model, name);
      return [name, { a: empty([rank, columns], like), b: empty([rows, rank], like) }] as const;
    });
    return new Map(factors);
  });
}

function runStep(
  { batch: shape, target }: Configuration & { target: Card },
  model: Model,
  { factors, gradients }: { factors: LayerFactors[]; gradients: LayerFactors[] },
  end: (phase: string) => void,
): void {
  const batch = plannedBatch(shape);
  const { dtype, device } = model;
  const rope = held("inputData", () =>
    ropeTables(positionsOf(model.config, batch), model.config, { dtype, device }),
  );
  const context = {
    model,
    rope,
    imageRows: batch.imageSlices,
    hasFlash: capabilityOf(target) >= CARD_ABILITIES["flash attention"],
  };
  let hidden = held("workingSet", () => embedText(model, batch.inputIds));
  const deepstack = emptyDeepstack(model, batch.imageSlices);
  for (const [at, { start, end: last, image }] of batch.imageSlices.entries()) {
    const picture = batch.images[image]!;
    category("visionFeatures", () => {
      scope(() => {
        const rows = rowsOf(hidden, { start, end: last });
        const features = { deepstack: deepstack && featuresOf(deepstack, at) };
        for (const _ of placeImage_(rows, model, picture, picture.units, features));
      });
    });
  }
  end("vision");
  const inputs: Tensor[] = [];
  for (const [layer, weights] of model.layers.entries()) {
    inputs.push(hidden);
    const own = factors[layer]!;
    hidden = held("boundaryActivations", () => scope(() => layerForward(hidden, weights, own, context)));
    addDeepstack_(hidden, deepstack, layer);
  }
  dispose(deepstack);
  end("forward");
  let gradient = held("loss", () => lossGradient(hidden, context));
  hidden.dispose();
  end("loss");
  for (let layer = model.layers.length - 1; layer >= 0; layer--) {
    const input = inputs[layer]!;
    const before = gradient;
    const layerGradients = (): Tensor => layerBackward(input, before, layer, { factors, gradients }, context);
    gradient = held("workingSet", layerGradients);
    before.dispose();
    input.dispose();
  }
  end("backward");
  dispose([gradient, rope]);
}

/** Computes logits of every row in float32, and returns the gradient of the hidden states, (T, C). */
function lossGradient(hidden: Tensor, { model: { norm, head, config } }: Context): Tensor {
  return withGrad(() => {
    const leaf = hidden.detach().requiresGrad_();
    const logits = rms(leaf, norm, config.rmsEps).linear(frozenValues(head)).to({ dtype: "float32" }); // (T, V)
    const targets = zeros([hidden.shape[0]!, 1], { dtype: "int64", device: "meta" });
    const loss = logits.logSoftmax(-1).gather(1, targets).mean().neg();
    return grad([loss], [leaf])[0]!;
  });
}

/**
 * Runs a checkpointed layer forward again under autograd, then backward. Gradients of the factors accumulate.
 */
function layerBackward(
  input: Tensor,
  dy: Tensor,
  layer: number,
  { factors, gradients }: { factors: LayerFactors[]; gradients: LayerFactors[] },
  context: Context,
): Tensor {
  return withGrad(() => {
    const leaf = input.detach().requiresGrad_();
    const frozen = [...factors[layer]!];
    const leaves = new Map(
      frozen.map(([name, { a, b }]) => {
        return [name, { a: a.detach().requiresGrad_(), b: b.detach().requiresGrad_() }] as const;
      }),
    );
    const y = layerForward(leaf, context.model.layers[layer]!, leaves, context);
    const wanted = [...leaves.values()].flatMap(({ a, b }) => [a, b]);
    const [dx, ...own] = grad([y], [leaf, ...wanted], [dy]);
    const into = [...gradients[layer]!.values()].flatMap(({ a, b }) => [a, b]);
    into.forEach((gradient, index) => void gradient.add_(own[index]!));
    return dx!;
  });
}

function layerForward(h: Tensor, weights: LayerWeights, factors: LayerFactors, context: Context): Tensor {
  const { config } = context.model;
  const { rmsEps } = config;
  const { roles, qkv } = familyOf(config);
  const linear = (x: Tensor, name: LinearName): Tensor => loraLinear(x, weights, factors, name, context);
  const input = rms(h, weights.attentionNorm, rmsEps);
  const names = new Set(qkv(config, 0).map(({ linear: name }) => name));
  const made = new Map([...names].map((name) => [name, linear(input, name)] as const));
  const middle = h.add(linear(attention(made, weights, context), roles.output));
  const x = rms(middle, weights.ffnNorm, rmsEps);
  const active = linear(x, roles.gate).silu().mul(linear(x, roles.up));
  return middle.add(linear(active, roles.down));
}

/** Returns the frozen product plus PLoRA on image rows plus LoRA with its dropout. x: (T, in) -> (T, out). */
function loraLinear(
  x: Tensor,
  weights: LayerWeights,
  factors: LayerFactors,
  name: LinearName,
  { imageRows }: Context,
): Tensor {
  const { weight, bias, plora } = weights.linears[name]!;
  const { a, b } = factors.get(name)!;
  const y = x.linear(frozenValues(weight), { bias });
  if (plora)
    for (const rows of imageRows)
      rowsOf(y, rows).add_(rowsOf(x, rows).linear(plora.a).linear(plora.b).mul(plora.scale));
  const mask = empty(x.shape, { dtype: "bool", device: "meta" });
  return y.add(x.mul(mask).linear(a).linear(b).mul(1));
}

/**
 * Computes attention: (T, H * D). made: outputs of the linears that make queries, keys and values, (T, rows)
 * each, packed by kv head if one makes them all.
 */
function attention(
  made: ReadonlyMap<LinearName, Tensor>,
  { headNorms }: LayerWeights,
  { model: { config }, rope, hasFlash }: Context,
): Tensor {
  const { heads, kvHeads: G, headDim: D } = config;
  const Q = heads / G;
  const { qkv } = familyOf(config);
  const headsOf = (as: QkvPart["as"]): Tensor => {
    const { linear, rows } = qkv(config, 0).find((part) => part.as === as)!;
    const byKvHead = made.get(linear)!.view([-1, G, made.get(linear)!.shape[1]! / G / D, D]);
    const first = made.size === 1 ? rows.start / D : 0;
    return byKvHead.narrow(2, first, as === "q" ? Q : 1); // (T, G, Q or 1, D)
  };
  const T = rope.cos.shape[0]!;
  const byHead = (x: Tensor): Tensor => x.reshape([1, T, -1, D]).transpose(1, 2); // (1, heads, T, D)
  const normed = (x: Tensor, weight: Tensor | undefined): Tensor =>
    weight ? rms(x, weight, config.rmsEps) : x;
  const query = byHead(rotated(normed(headsOf("q"), headNorms?.query), rope));
  const repeated = (x: Tensor): Tensor => byHead(x.expand([T, G, Q, D]));
  const key = repeated(rotated(normed(headsOf("k"), headNorms?.key), rope));
  const value = repeated(headsOf("v"));
  const causal = { isCausal: true };
  const [out] = hasFlash
    ? flash(query, key, value, causal)
    : efficient(query, key, value, null, true, causal);
  if (!out) throw new Error("an attention kernel gave no output");
  return out.transpose(1, 2).reshape([T, heads * D]);
}

function rotated(x: Tensor, { cos, sin }: Context["rope"]): Tensor {
  const half = x.shape[3]! / 2;
  const first = x.narrow(3, 0, half);
  const second = x.narrow(3, half, half);
  return cat([first.mul(cos).sub(second.mul(sin)), second.mul(cos).add(first.mul(sin))], 3);
}

function rms(x: Tensor, weight: Tensor, eps: number): Tensor {
  const wide = x.to({ dtype: "float32" });
  return wide
    .mul(wide.square().meanDim([-1], { keepdim: true }).add(eps).rsqrt())
    .to({ dtype: x.dtype })
    .mul(weight);
}
