/**
 * Computes the official schedule in plain autograd: the whole decoder in one graph, full logits, no tiles, no
 * groups. It is slow and needs much memory. Tests compare the step's own backward with it.
 */
import type { MicroBatch } from "../../src/data/stream/batches.ts";
import { type Deepstack, featuresOf } from "../../src/models/deepstack.ts";
import { familyOf, positionsOf } from "../../src/models/families.ts";
import type { LinearName } from "../../src/models/family.ts";
import { type Lora, loraBranch } from "../../src/models/lora.ts";
import type { LayerWeights, Model } from "../../src/models/weights.ts";
import { XCOMPOSER_LINEARS } from "../../src/models/xcomposer2/spec.ts";
import { ropeTables } from "../../src/nn/attention/rope.ts";
import { frozenValues } from "../../src/nn/frozen/frozen.ts";
import { columnsOf } from "../../src/nn/rows.ts";
import { sampleRows } from "../../src/step/ownRows.ts";
import { cat, fromArray, where, zeros } from "../../src/torch/create.ts";
import { grad, keep, scope, type Tensor, withGrad } from "../../src/torch/tensor.ts";

export interface ReferenceResult {
  loss: number;
  /** Keys are "<module>.a" and "<module>.b". */
  gradients: Map<string, Tensor>;
}

/**
 * Returns the mean loss over labels and every LoRA factor's gradient, by autograd. hidden: decoder input, (T,
 * C); deepstack: the features of pictures for its first layers.
 */
export function referenceStep(
  model: Model,
  lora: Lora,
  batch: MicroBatch,
  hidden: Tensor,
  deepstack?: Deepstack,
): ReferenceResult {
  return keep(
    scope(() => {
      const leaves = new Map<string, Tensor>();
      const modules = [...lora.modules].map(([name, module]) => {
        const a = module.a.value.detach().requiresGrad_();
        const b = module.b.value.detach().requiresGrad_();
        leaves.set(`${name}.a`, a).set(`${name}.b`, b);
        return [name, { a: { value: a }, b: { value: b }, scale: module.scale }] as const;
      });
      const leafLora = { ...lora, modules: new Map(modules) };
      return withGrad(() => {
        const loss = meanLoss(model, leafLora, batch, hidden, deepstack);
        const gradients = grad([loss], [...leaves.values()]);
        return {
          loss: loss.item(),
          gradients: new Map([...leaves.keys()].map((name, index) => [name, gradients[index]!])),
        };
      });
    }),
  );
}

function meanLoss(
  model: Model,
  lora: Lora,
  batch: MicroBatch,
  input: Tensor,
  deepstack: Deepstack | undefined,
): Tensor {
  const { config, dtype, device } = model;
  const rope = ropeTables(positionsOf(config, batch), config, { dtype, device });
  const imageMask = maskOf(batch, model);
  const { roles } = familyOf(config);
  let h = input;
  for (const [index, weights] of model.layers.entries()) {
    const linear = (name: LinearName, x: Tensor): Tensor =>
      referenceLinear(x, weights, name, lora, index, imageMask, model);
    const given = norm(h, weights.attentionNorm, config.rmsEps);
    h = h.add(attention(given, linear, rope, batch, { ...model, weights }));
    const x = norm(h, weights.ffnNorm, config.rmsEps);
    h = h.add(linear(roles.down, linear(roles.gate, x).silu().mul(linear(roles.up, x))));
    if (deepstack && index < deepstack.values.shape[0]!) {
      const features = batch.imageSlices.map((_, picture) => featuresOf(deepstack, picture)[index]!);
      const rows = batch.imageSlices.flatMap(({ start, end }) =>
        [...batch.inputIds.keys()].slice(start, end),
      );
      const places = fromArray(Int32Array.from(rows), [rows.length], { dtype: "int64" });
      h = h.add(zeros(h.shape, h).indexAdd_(0, places, cat(features, 0)));
    }
  }
  const rows = Int32Array.from(batch.targets.keys()).filter((row) => batch.targets[row] !== -100);
  const targets = fromArray(
    rows.map((row) => batch.targets[row]!),
    [rows.length, 1],
    { dtype: "int64" },
  );
  const labelled = h.indexSelect(0, fromArray(rows, [rows.length], { dtype: "int64" }));
  const logits = norm(labelled, model.norm, config.rmsEps).mm(frozenValues(model.head, model).t());
  return logits
    .to({ dtype: dtype === "float64" ? dtype : "float32" })
    .logSoftmax(-1)
    .gather(1, targets)
    .mean()
    .neg();
}

function referenceLinear(
  x: Tensor,
  weights: LayerWeights,
  name: LinearName,
  lora: Lora,
  layer: number,
  imageMask: Tensor,
  { dtype }: Model,
): Tensor {
  const { weight, bias, plora } = weights.linears[name]!;
  const branch = loraBranch(lora, layer, name, { dtype, dropoutSeed: undefined });
  let y = x.mm(frozenValues(weight, { dtype }).t());
  if (bias) y = y.add(bias);
  if (plora) {
    const image = x.mm(plora.a.t()).mm(plora.b.t()).mul(plora.scale);
    y = y.add(where(imageMask, image, image.mul(0)));
  }
  return branch ? y.add(x.mm(branch.a.t()).mm(branch.b.t()).mul(branch.scale)) : y;
}

function attention(
  x: Tensor,
  linear: (name: LinearName, x: Tensor) => Tensor,
  rope: { cos: Tensor; sin: Tensor },
  batch: MicroBatch,
  { config, weights }: Model & { weights: LayerWeights },
): Tensor {
  const { heads, kvHeads: G, headDim: D, rmsEps } = config;
  const { headNorms } = weights;
  const Q = heads / G;
  const { qkv, roles } = familyOf(config);
  const made = new Map(qkv(config, 0).map(({ linear: name }) => [name, linear(name, x)]));
  const headsOf = (as: "q" | "k" | "v"): Tensor => {
    const parts = Array.from({ length: G }, (_, head) => qkv(config, head).find((part) => part.as === as)!);
    const columns = parts.map((part) => columnsOf(made.get(part.linear)!, part.rows));
    return cat(columns, 1).view([-1, G, as === "q" ? Q : 1, D]); // (T, G, Q or 1, D)
  };
  const normed = (x: Tensor, weight: Tensor | undefined): Tensor => (weight ? norm(x, weight, rmsEps) : x);
  const query = rotated(normed(headsOf("q"), headNorms?.query), rope);
  const key = rotated(normed(headsOf("k"), headNorms?.key), rope).expand(query.shape);
  const value = headsOf("v").expand(query.shape);
  const outputs = sampleRows(batch).map(({ start, end }) => {
    const cut = (t: Tensor): Tensor => t.narrow(0, start, end - start).permute([1, 2, 0, 3]); // (G, Q, t, D)
    const scores = cut(query)
      .matmul(cut(key).transpose(2, 3))
      .mul(D ** -0.5); // (G, Q, t, t)
    const later = Array.from({ length: (end - start) ** 2 }, (_, at) =>
      at % (end - start) > Math.floor(at / (end - start)) ? 1 : 0,
    );
    const mask = fromArray(Uint8Array.from(later), [end - start, end - start], { dtype: "bool" });
    const shares = scores.maskedFill(mask, Number.NEGATIVE_INFINITY).softmax(-1);
    return shares
      .matmul(cut(value))
      .permute([2, 0, 1, 3])
      .reshape([end - start, heads * D]);
  });
  return linear(roles.output, cat(outputs, 0));
}

function rotated(x: Tensor, { cos, sin }: { cos: Tensor; sin: Tensor }): Tensor {
  const half = x.shape[3]! / 2;
  const first = x.narrow(3, 0, half);
  const second = x.narrow(3, half, half);
  return cat([first.mul(cos).sub(second.mul(sin)), second.mul(cos).add(first.mul(sin))], 3);
}

function norm(x: Tensor, weight: Tensor, eps: number): Tensor {
  const wide = x.to({ dtype: x.dtype === "float64" ? "float64" : "float32" });
  return wide
    .mul(wide.square().meanDim([-1], { keepdim: true }).add(eps).rsqrt())
    .to({ dtype: x.dtype })
    .mul(weight);
}

function maskOf(batch: MicroBatch, { device }: Model): Tensor {
  const mask = new Uint8Array(batch.inputIds.length);
  for (const { start, end } of batch.imageSlices) mask.fill(1, start, end);
  return fromArray(mask, [mask.length, 1], { dtype: "bool", device });
}

/** Returns the names of the modules in the layers, as adapters spell them. */
export function moduleNames(layers: number): string[] {
  return Array.from({ length: layers }, (_, layer) =>
    XCOMPOSER_LINEARS.map((name) => `layers.${layer}.${name}`),
  ).flat();
}
