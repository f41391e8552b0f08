/** The frozen base as records of tensors, and how it is loaded from a checkpoint. */
import type { Checkpoint } from "../checkpoint/checkpoint.ts";
import { type ModelFolder, resolveModel } from "../checkpoint/folder.ts";
import { UserError } from "../errors.ts";
import { denseMatrix, type FrozenMatrix, frozenValues } from "../nn/frozen/frozen.ts";
import type { QuantizeTarget } from "../nn/frozen/nf4.ts";
import { type QuantizedMatrix, quantize } from "../nn/frozen/quantized.ts";
import { storedPrecision } from "../nn/frozen/storedNames.ts";
import { readQuantized } from "../nn/frozen/storedTensors.ts";
import { afterFolding, type FrozenLinear, foldedPart, foldInto_, type Plora } from "../nn/plora.ts";
import { category, pool } from "../torch/device.ts";
import type { Device, DType } from "../torch/dtypes.ts";
import type { Peers } from "../torch/peers/peers.ts";
import { dispose, keep, scope, type Tensor } from "../torch/tensor.ts";
import { familyOf, openFamilyFolder, readModelConfig, tensorsOf } from "./families.ts";
import type { LinearName, ModelConfig, PictureWeights, PlacedReader } from "./family.ts";
import { ON_DEVICE, type Place, type Places, WEIGHT_PLACES } from "./places.ts";
import { type Base, type Bases, isHeadBase } from "./precision/bases.ts";
import { storedBases } from "./precision/storedBases.ts";
import type { PartName } from "./shares/gathering.ts";
import { type SharedBase, type ShareReader, Sharing } from "./shares/sharing.ts";

/** Norms: (C). */
export interface LayerWeights {
  attentionNorm: Tensor;
  ffnNorm: Tensor;
  /** Norms of queries and keys, (D) each, if the model has them. */
  headNorms?: { query: Tensor; key: Tensor } | undefined;
  linears: Record<LinearName, FrozenLinear>;
}

/** embeddings, head: (V, C), the same matrix if they are tied and lie at one place; norm: (C). */
export interface Model {
  config: ModelConfig;
  dtype: DType;
  /** Where it computes. */
  device: Device;
  places: Places;
  /**
   * Whether PLoRA is folded into the layers' weights, W + p PB PA, as if all rows were of pictures. Its
   * branch then has scale -p and acts on the rows that are not of pictures.
   */
  folded: boolean;
  embeddings: FrozenMatrix;
  layers: LayerWeights[];
  norm: Tensor;
  head: FrozenMatrix;
  /** The weights that make image tokens; only the family knows their form. */
  vision: PictureWeights;
  /** The parts that ranks hold shares of, if there are any. */
  shared?: SharedBase | undefined;
}

export interface LoadOptions extends Bases {
  dtype: DType;
  device: Device;
  /** On the device where left out. */
  places?: Places;
  /** Whether PLoRA is folded into the layers' weights, which have to lie on the device. */
  folded?: boolean | undefined;
  /** The ranks that share parts; a process by itself where left out. */
  peers?: Peers | undefined;
}

/** Has a tensor of an official name lie on a device. */
export type ReadTensor = (name: string, device: Device, place: Place) => Tensor;

/**
 * A source of weights. A matrix comes in the precision asked for, whatever it is stored in, with PLoRA folded
 * into it if that is given.
 */
export interface WeightReader {
  tensor: ReadTensor;
  matrix(
    name: string,
    base: Base | undefined,
    on: { device: Device; place: Place; folded?: Plora | undefined },
  ): FrozenMatrix;
  /** Reads the same weights for shares; undefined: this source can't. */
  shares?: ShareReader;
}

/**
 * Loads a checkpoint folder, or a downloaded repository by its name; the caller disposes the model with
 * disposeModel. Weights on the host are the mapped file itself if they are stored as wanted, and then take no
 * memory of the host pool.
 */
export function loadModel(nameOrFolder: string, options: LoadOptions): Model {
  const folder = openFamilyFolder(resolveModel(nameOrFolder));
  try {
    return loadOpened({ files: folder, config: readModelConfig(folder) }, options);
  } finally {
    folder.weights.close();
  }
}

/** Loads a model whose folder is open, and stays so. */
export function loadOpened(
  { files, config }: { files: ModelFolder; config: ModelConfig },
  options: LoadOptions,
): Model {
  const reader = checkpointReader(config, files.weights, options.dtype);
  return category("weights", () => keep(scope(() => assembleModel(config, options, reader))));
}

/** Frees every tensor of a model. */
export function disposeModel(model: Model): void {
  dispose(model);
}

/** The model's record with every tensor had by its official name. */
export function assembleModel(
  config: ModelConfig,
  { dtype, device, places = ON_DEVICE, folded = false, peers, ...bases }: LoadOptions,
  source: WeightReader | ReadTensor,
): Model {
  const reader = typeof source === "function" ? tensorReader(source) : source;
  if (folded && places.layers !== "device")
    throw new Error(
      `PLoRA cannot be folded into ${places.layers === "host" ? "weights on the host" : "shared weights"}`,
    );
  const { names, pictures } = familyOf(config);
  const isTied = config.tiedHead === true;
  const at = (place: Place): PlacedReader => {
    const { pool: own, deviceOf } = WEIGHT_PLACES[place];
    const on = deviceOf(device);
    return {
      tensor: (name) => pool(own, () => reader.tensor(name, on, place)),
      matrix: (name, wanted, folded) =>
        pool(own, () => reader.matrix(name, wanted, { device: on, place, folded })),
    };
  };
  const sharing = reader.shares && new Sharing(reader.shares, device, peers);
  const part = <T>(name: PartName, place: Place, assemble: (from: PlacedReader) => T): T => {
    if (place !== "shared") return assemble(at(place));
    if (!sharing) throw new Error("these weights can't be shared");
    return sharing.add(name, assemble);
  };
  const { base, headBase, visionBase } = bases;
  const embeddings = part("embeddings", places.embeddings, ({ matrix }) =>
    matrix(names.embeddings, headBase),
  );
  const headName = isTied ? names.embeddings : names.head;
  const isSame = isTied && places.head === places.embeddings;
  if (isSame) sharing?.addAgain("head", "embeddings");
  const parts = {
    embeddings,
    layers: Array.from({ length: config.layers }, (_, layer) =>
      part(layer, places.layers, (from) => assembleLayer(config, layer, from, { base, folded })),
    ),
    norm: at("device").tensor(names.norm),
    head: isSame ? embeddings : part("head", places.head, ({ matrix }) => matrix(headName, headBase)),
    vision: part("vision", places.vision, (from) => pictures.assemble(config, from, visionBase)),
  };
  return { config, dtype, device, places, folded, ...parts, shared: sharing?.end(parts) };
}

/** Full tensors, quantised where that is asked for. */
function tensorReader(read: ReadTensor): WeightReader {
  return {
    tensor: read,
    matrix: (name, base, { device, place, folded }) =>
      base && base !== "bf16"
        ? scope(() => quantize(read(name, device, place), base, foldingTarget(device, folded)))
        : foldedMatrix(read(name, device, place), folded),
  };
}

/**
 * Returns a weight, (out, in), which its reader owns, as a matrix. PLoRA is folded in place, so that there is
 * no second copy.
 */
export function foldedMatrix(weight: Tensor, folded: Plora | undefined): FrozenMatrix {
  return denseMatrix(folded ? scope(() => foldInto_(weight, folded)) : weight);
}

function foldingTarget(device: Device, folded: Plora | undefined): QuantizeTarget {
  return { device, added: folded && ((rows) => foldedPart(folded, rows)) };
}

/** The weights of one decoder layer. */
function assembleLayer(
  config: ModelConfig,
  layer: number,
  { tensor, matrix }: PlacedReader,
  { base, folded }: Pick<LoadOptions, "base" | "folded">,
): LayerWeights {
  const { names, linears } = familyOf(config);
  const prefix = names.layerPrefix(layer);
  const { hasHeadNorms = false } = config;
  const headNorm = (of: "query" | "key"): Tensor => tensor(`${prefix}${names.headNorms![of]}`);
  const linear = (name: LinearName): FrozenLinear => {
    const full = `${prefix}${name}.weight`;
    const { branch, bias: hasBias } = linears[name]!;
    const bias = hasBias(config) ? tensor(`${prefix}${name}.bias`) : undefined;
    const plora = branch && {
      a: tensor(`${prefix}${name}.${branch.names.a}`),
      b: tensor(`${prefix}${name}.${branch.names.b}`),
      scale: branch.of(config).scale,
    };
    if (!plora || !folded) return { weight: matrix(full, base), bias, plora };
    return { weight: matrix(full, base, plora), bias, plora: afterFolding(plora) };
  };
  return {
    attentionNorm: tensor(`${prefix}${names.attentionNorm}`),
    ffnNorm: tensor(`${prefix}${names.ffnNorm}`),
    ...(hasHeadNorms && { headNorms: { query: headNorm("query"), key: headNorm("key") } }),
    linears: Object.fromEntries(Object.keys(linears).map((name) => [name, linear(name)])),
  };
}

/**
 * Returns a reader of a checkpoint's weights, which dequantises and quantises them if they are stored
 * otherwise than asked for.
 */
function checkpointReader(config: ModelConfig, weights: Checkpoint, dtype: DType): WeightReader {
  const tensors = tensorsOf(config);
  const { visionBase } = storedBases(tensors, weights);
  const heldAs = (name: string, precision: Base | undefined): Base | undefined => {
    const part = tensors.get(name)?.precision;
    if (part === "visionBase") return visionBase;
    return part === "base" || isHeadBase(precision) ? precision : undefined;
  };
  const stored = (name: string, device: Device, place: Place): QuantizedMatrix | undefined => {
    const precision = storedPrecision(name, weights);
    const [rows, columns] = tensors.get(name)?.shape ?? [];
    if (!precision || rows === undefined || columns === undefined) return undefined;
    return readQuantized(name, [rows, columns], precision, weights, {
      device,
      copy: !WEIGHT_PLACES[place].mapsFiles,
    });
  };
  const tensor: ReadTensor = (name, device, place) =>
    scope(() => {
      const matrix = stored(name, device, place);
      if (matrix) return frozenValues(matrix, { dtype });
      return weights.tensor(name).to({ dtype, device, copy: !WEIGHT_PLACES[place].mapsFiles });
    });
  const isKept = (name: string, base: Base | undefined): boolean => {
    const precision = storedPrecision(name, weights);
    return precision !== undefined && (base ?? heldAs(name, precision)) === precision;
  };
  const matrix: WeightReader["matrix"] = (name, base, { device, place, folded }) =>
    scope(() => {
      const precision = storedPrecision(name, weights);
      if (precision && isKept(name, base)) {
        if (folded) throw storedUnfolded(precision);
        return stored(name, device, place)!;
      }
      if (!base || base === "bf16") return foldedMatrix(tensor(name, device, place), folded);
      if (precision) {
        const what = tensors.get(name)?.precision === "visionBase" ? "vision tower" : "base";
        throw storedOtherwise(weights.place, what, precision, base);
      }
      return quantize(weights.tensor(name), base, foldingTarget(device, folded));
    });
  const isMapped = (name: string): boolean => storedPrecision(name, weights) === undefined;
  const mapped = { device: "cpu", place: "host" } as const;
  const shares: ShareReader = {
    dtype,
    outlined: (name, base) => ({
      shape: tensors.get(name)!.shape,
      base: isKept(name, base) ? storedPrecision(name, weights) : base,
    }),
    tensor: (name) => (isMapped(name) ? weights.tensor(name) : tensor(name, "cpu", "host")),
    matrix: (name, base, device) => {
      if (!base || base === "bf16")
        return isMapped(name) ? denseMatrix(weights.tensor(name)) : matrix(name, base, mapped);
      return matrix(name, base, isKept(name, base) ? mapped : { device, place: "device" });
    },
  };
  return { tensor, matrix, shares };
}

/**
 * Returns the error for a policy that folds PLoRA into a base that stays in the checkpoint's own precision.
 */
export function storedUnfolded(precision: Base): UserError {
  return new UserError(`PLoRA cannot be folded into a base that the checkpoint stores in ${precision}.`, {
    fix: 'Give the policy "plora": "merged" or "apart", or start from the unquantised checkpoint.',
  });
}

function storedOtherwise(place: string, what: string, precision: Base, base: Base): UserError {
  return new UserError(`${place} stores its ${what} in ${precision}; lorafit cannot convert it to ${base}.`, {
    fix: `Omit the option, or start from the unquantised checkpoint for ${base}.`,
  });
}
