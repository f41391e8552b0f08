/** The frozen base as records of tensors, and how it is loaded from a checkpoint. */

import { openModelFolder, resolveModel } from "../checkpoint/folder.ts";
import { denseMatrix, type FrozenMatrix } from "../nn/frozen.ts";
import { category, pool } from "../torch/device.ts";
import type { Device, DType } from "../torch/dtypes.ts";
import { dispose, keep, scope, type Tensor } from "../torch/tensor.ts";
import { hostOf, ON_DEVICE, type Place, type Places } from "./places.ts";
import { LINEAR_NAMES, type LinearName, type ModelConfig, readModelConfig, VISION_PREFIX } from "./spec.ts";

/** Low-rank branch of the base that acts on image rows only: scale * (x a^T) b^T. a: (rank, in), b: (out, rank). */
export interface Plora {
  a: Tensor;
  b: Tensor;
  scale: number;
}

/** weight: (out, in). */
export interface FrozenLinear {
  weight: FrozenMatrix;
  plora: Plora;
}

/** Norms: (C). */
export interface LayerWeights {
  attentionNorm: Tensor;
  ffnNorm: Tensor;
  linears: Record<LinearName, FrozenLinear>;
}

/** weight: (out, in) or (width) of a norm; bias: (out). */
export interface Affine {
  weight: Tensor;
  bias: Tensor;
}

export interface VisionLayer {
  norm1: Affine;
  norm2: Affine;
  q: Affine;
  k: Affine;
  v: Affine;
  out: Affine;
  fc1: Affine;
  fc2: Affine;
}

/** W is the tower's width. */
export interface VisionWeights {
  /** (W, 3 * patch * patch) */
  patch: Tensor;
  /** (W) */
  classEmbedding: Tensor;
  /** (patches + 1, W) */
  positions: Tensor;
  preNorm: Affine;
  layers: VisionLayer[];
  projector: [Affine, Affine];
  /** (1, 4W): parts the global view from the tiles. */
  glbGN: Tensor;
  /** (1, 4W): ends each row of tokens. */
  subGN: Tensor;
}

/** embeddings, head: (V, C); norm: (C). */
export interface Model {
  config: ModelConfig;
  dtype: DType;
  /** Where it computes. */
  device: Device;
  places: Places;
  embeddings: Tensor;
  layers: LayerWeights[];
  norm: Tensor;
  head: FrozenMatrix;
  vision: VisionWeights;
}

export interface LoadOptions {
  dtype: DType;
  device: Device;
  /** On the device where left out. */
  places?: Places;
}

/** Has a tensor of an official name lie on a device. */
export type ReadTensor = (name: string, device: Device, place: Place) => Tensor;

/**
 * Loads a checkpoint folder, or a downloaded repository by its name; the caller disposes it with disposeModel. What lies on the host is
 * the mapped file itself where its dtype is the computing one, and no memory of the host pool.
 */
export function loadModel(nameOrFolder: string, options: LoadOptions): Model {
  const folder = openModelFolder(resolveModel(nameOrFolder));
  try {
    const config = readModelConfig(folder);
    const read: ReadTensor = (name, device, place) =>
      scope(() => folder.weights.tensor(name).to({ dtype: options.dtype, device, copy: place === "device" }));
    return category("weights", () => keep(scope(() => assembleModel(config, options, read))));
  } finally {
    folder.weights.close();
  }
}

/** Frees every tensor of a model. */
export function disposeModel(model: Model): void {
  dispose(model);
}

/** The model's record with every tensor had from read(official name). */
export function assembleModel(
  config: ModelConfig,
  { dtype, device, places = ON_DEVICE }: LoadOptions,
  read: ReadTensor,
): Model {
  const readAt = (place: Place) => (name: string) =>
    pool(place, () => read(name, place === "host" ? hostOf(device) : device, place));
  return {
    config,
    dtype,
    device,
    places,
    embeddings: readAt(places.embeddings)("model.tok_embeddings.weight"),
    layers: Array.from({ length: config.layers }, (_, layer) =>
      assembleLayer(config, layer, readAt(places.layers)),
    ),
    norm: readAt("device")("model.norm.weight"),
    head: denseMatrix(readAt(places.head)("output.weight")),
    vision: assembleVision(config, readAt(places.vision)),
  };
}

/** The weights of one decoder layer. */
export function assembleLayer(
  config: ModelConfig,
  layer: number,
  read: (name: string) => Tensor,
): LayerWeights {
  const prefix = `model.layers.${layer}.`;
  const linear = (name: LinearName): FrozenLinear => ({
    weight: denseMatrix(read(`${prefix}${name}.weight`)),
    plora: {
      a: read(`${prefix}${name}.Plora_A.weight`),
      b: read(`${prefix}${name}.Plora_B.weight`),
      scale: config.plora[name].scale,
    },
  });
  return {
    attentionNorm: read(`${prefix}attention_norm.weight`),
    ffnNorm: read(`${prefix}ffn_norm.weight`),
    linears: Object.fromEntries(LINEAR_NAMES.map((name) => [name, linear(name)])) as LayerWeights["linears"],
  };
}

function assembleVision(config: ModelConfig, read: (name: string) => Tensor): VisionWeights {
  const width = config.vision.hidden;
  const affine = (name: string): Affine => ({
    weight: read(`${name}.weight`),
    bias: read(`${name}.bias`),
  });
  const layer = (index: number): VisionLayer => {
    const prefix = `${VISION_PREFIX}encoder.layers.${index}.`;
    return {
      norm1: affine(`${prefix}layer_norm1`),
      norm2: affine(`${prefix}layer_norm2`),
      q: affine(`${prefix}self_attn.q_proj`),
      k: affine(`${prefix}self_attn.k_proj`),
      v: affine(`${prefix}self_attn.v_proj`),
      out: affine(`${prefix}self_attn.out_proj`),
      fc1: affine(`${prefix}mlp.fc1`),
      fc2: affine(`${prefix}mlp.fc2`),
    };
  };
  return {
    patch: read(`${VISION_PREFIX}embeddings.patch_embedding.weight`).view([width, -1]),
    classEmbedding: read(`${VISION_PREFIX}embeddings.class_embedding`),
    positions: read(`${VISION_PREFIX}embeddings.position_embedding.weight`),
    preNorm: affine(`${VISION_PREFIX}pre_layrnorm`),
    layers: Array.from({ length: config.vision.layers }, (_, index) => layer(index)),
    projector: [affine("vision_proj.0"), affine("vision_proj.2")],
    glbGN: read("plora_glb_GN").view([1, 4 * width]),
    subGN: read("plora_sub_GN").view([1, 4 * width]),
  };
}
