/**
 * Creates the parts that dry runs share: the empty model, and the adapter with its optimizer. Creating,
 * resuming, updating and saving them does not depend on the micro-batch. A search creates and traces them
 * once, and every run has the same allocations in the same order.
 */

import { tensorsOf } from "../../models/families.ts";
import { createLora, disposeLora, type Lora } from "../../models/lora.ts";
import { type Place, WEIGHT_PLACES } from "../../models/places.ts";
import type { ShareReader } from "../../models/shares/sharing.ts";
import {
  assembleModel,
  disposeModel,
  foldedMatrix,
  type Model,
  type ReadTensor,
  storedUnfolded,
  type WeightReader,
} from "../../models/weights.ts";
import type { Room } from "../../nn/frozen/nf4.ts";
import { emptyQuantized } from "../../nn/frozen/quantized.ts";
import { OFFICIAL_ADAMW } from "../../step/optimizer/adamW.ts";
import { gradientCopies } from "../../step/optimizer/gradientBackup.ts";
import { createGradientSum, type GradientSum, sumOverlaps } from "../../step/optimizer/gradientSum.ts";
import {
  type AdamW,
  createAdamW,
  disposeAdamW,
  gradientsOf,
  layerGradientsOf,
  loraParameters,
  normOfGradients,
  stepAdamW,
} from "../../step/optimizer/optimizer.ts";
import { clippedScale } from "../../step/optimizer/updateGate.ts";
import { factorCopies, loadingOf, placesOf } from "../../step/policy.ts";
import { STAGING_BYTES } from "../../torch/copies.ts";
import { empty } from "../../torch/create.ts";
import { category, pool } from "../../torch/device.ts";
import type { DType } from "../../torch/dtypes.ts";
import { plannedPeers } from "../../torch/peers/peers.ts";
import { dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import type { Trace } from "../../torch/trace.ts";
import type { Configuration } from "./configuration.ts";
import { resumeOnMeta, saveOnMeta } from "./saveAndResume.ts";
import { mappedPartsOf, storedBaseOf } from "./storedParts.ts";

/** Returns everything traced since the last call. */
export type TakeTrace = () => Trace;

export interface ModelPart extends Disposable {
  model: Model;
  /** Bytes of weights on the host that lie in the checkpoint's mapped file, and in no pool. */
  mappedBytes: number;
  making: Trace;
}

export interface AdapterPart extends Disposable {
  lora: Lora;
  making: Trace;
  resuming: Trace;
  /**
   * The update after a step. The step itself leaves nothing behind, because it adds to gradients in place.
   */
  updating: Trace;
  saving: Trace;
}

/** Number of parts of each kind to keep: a search alternates between a few. */
const HELD = 6;

/** The parts of a search's runs. They hold meta tensors, so dispose this object after the search. */
export class CommonParts implements Disposable {
  readonly #models = new Map<string, ModelPart>();
  readonly #adapters = new Map<string, AdapterPart>();

  model(configuration: Configuration, take: TakeTrace): ModelPart {
    const { model, dtype, policy, base, headBase, visionBase, stored, mapsWeights, ranks } = configuration;
    const bases = { base, headBase, visionBase, stored, mapsWeights };
    const key = JSON.stringify([model, dtype, bases, loadingOf(policy), isStaged(configuration), ranks]);
    return heldIn(this.#models, key, () => makeModel(configuration, take));
  }

  adapter(configuration: Configuration, take: TakeTrace): AdapterPart {
    const { model, dtype, lora, policy, gradientCopy, target, exactSum, ranks } = configuration;
    const { optimizer, gradients } = policy;
    const capability = target === "cpu" ? target : target.computeCapability;
    const key = JSON.stringify([
      model,
      dtype,
      lora,
      optimizer,
      gradients,
      gradientCopy,
      capability,
      exactSum,
      ranks,
      overlapsOf(configuration),
    ]);
    return heldIn(this.#adapters, key, () => makeAdapter(configuration, take));
  }

  /** Frees the oldest parts, down to `count` of each kind. Must not run while a run is traced. */
  trim(count: number): void {
    for (const parts of [this.#models, this.#adapters]) {
      const old = [...parts].slice(0, Math.max(0, parts.size - count));
      for (const [key, part] of old) {
        parts.delete(key);
        part[Symbol.dispose]();
      }
    }
  }

  [Symbol.dispose](): void {
    this.trim(0);
  }
}

/** The parts of a search. A search is synchronous, so its parts are freed in the next setImmediate. */
export class PartsOfSearch {
  /** Called after each dry run of the search. */
  onDryRun: (() => void) | undefined;
  #parts: CommonParts | undefined;

  get(): CommonParts {
    const parts = this.#parts ?? new CommonParts();
    if (!this.#parts) {
      setImmediate(() => {
        this.#parts = undefined;
        parts[Symbol.dispose]();
      });
    }
    this.#parts = parts;
    parts.trim(HELD);
    return parts;
  }
}

/** Returns the part for a key, and makes it the newest. */
function heldIn<Part extends Disposable>(parts: Map<string, Part>, key: string, make: () => Part): Part {
  const part = parts.get(key) ?? make();
  parts.delete(key);
  parts.set(key, part);
  return part;
}

function makeModel(configuration: Configuration, take: TakeTrace): ModelPart {
  const opened = openModel(configuration);
  return { ...opened, making: take() };
}

function makeAdapter(configuration: Configuration, take: TakeTrace): AdapterPart {
  const { lora, optimizer, sum, ...opened } = openAdapter(configuration);
  const making = take();
  resumeOnMeta(optimizer);
  const resuming = take();
  sumOnMeta(sum, configuration);
  scope(() => stepAdamW(optimizer, 1e-4, clippedScale(normOfGradients(optimizer.parameters), 1, 1)));
  const updating = take();
  saveOnMeta(optimizer, lora);
  return { lora, making, resuming, updating, saving: take(), ...opened };
}

/** Creates everything that a run holds from its start to its end. */
export function openOnMeta(
  configuration: Configuration,
): { model: Model; lora: Lora; optimizer: AdamW; sum: GradientSum | undefined } & Disposable {
  const { model, ...opened } = openModel(configuration);
  const adapter = openAdapter(configuration);
  const close = (): void => {
    adapter[Symbol.dispose]();
    opened[Symbol.dispose]();
  };
  return { ...adapter, model, [Symbol.dispose]: close };
}

function openModel(configuration: Configuration): Omit<ModelPart, "making"> {
  const { model, mappedBytes } = emptyModel(configuration);
  const staging = isStaged(configuration) ? emptyStaging() : [];
  const close = (): void => {
    dispose(staging);
    disposeModel(model);
  };
  return { model, mappedBytes, [Symbol.dispose]: close };
}

/** Tells whether parts of the base model reach a card through pinned buffers. */
function isStaged({ policy, target }: Pick<Configuration, "policy" | "target">): boolean {
  const { layers, head, vision } = placesOf(policy); // embeddings are gathered on the host
  return target !== "cpu" && [layers, head, vision].includes("host");
}

function emptyStaging(): Tensor[] {
  const bytes = (): Tensor => keep(empty([STAGING_BYTES], { dtype: "uint8", device: "meta" }));
  return [pool("host", () => category("workspace", bytes))];
}

function openAdapter(
  configuration: Configuration,
): { lora: Lora; optimizer: AdamW; sum: GradientSum | undefined } & Disposable {
  const lora = emptyLora(configuration);
  const parameters = loraParameters(lora);
  const optimizer = createAdamW(parameters, OFFICIAL_ADAMW, configuration.policy.optimizer);
  const { gradientCopy, exactSum = false, ranks } = configuration;
  const copies = gradientCopy && gradientCopies(gradientsOf(parameters), gradientCopy);
  const peers = plannedPeers(ranks?.rank ?? 0, ranks?.count ?? 1);
  const options = { exact: exactSum, overlaps: overlapsOf(configuration) };
  const sum = ranks || exactSum ? createGradientSum(peers, layerGradientsOf(parameters), options) : undefined;
  const close = (): void => {
    sum?.[Symbol.dispose]();
    copies?.[Symbol.dispose]();
    disposeAdamW(optimizer);
    disposeLora(lora);
  };
  return { lora, optimizer, sum, [Symbol.dispose]: close };
}

/** Tells whether gradients are added up beside the last backward pass. */
function overlapsOf({ ranks, policy, exactSum = false, sharers, gradientCopy }: Configuration): boolean {
  const sharesRows = (sharers?.count ?? 1) > 1;
  const keepsCopy = gradientCopy !== undefined;
  return ranks !== undefined && sumOverlaps({ policy, exactSum, sharesRows, keepsCopy });
}

/**
 * Adds up the gradients of ranks before an update, as a step does. What goes on beside the backward pass is
 * traced here too, because it depends on no micro-batch and allocates nothing.
 */
export function sumOnMeta(
  sum: GradientSum | undefined,
  { exactSum = false }: Pick<Configuration, "exactSum">,
): void {
  if (exactSum) for (const pending of sum!.add()) pending.wait();
  sum?.begin(1); // the first layer is the last whose gradients are final
  for (const pending of sum?.finish() ?? []) pending.wait();
}

/**
 * Creates the model without data, loaded as the policy wants. Throws UserError if the checkpoint's base model
 * cannot be loaded so.
 */
export function emptyModel(configuration: Configuration): Pick<ModelPart, "model" | "mappedBytes"> {
  const { model: config, dtype, policy, base, headBase, visionBase, mapsWeights, ranks } = configuration;
  const tensors = tensorsOf(config);
  const loading = loadingOf(policy);
  const storedBase = storedBaseOf(configuration);
  if (loading.folded && storedBase) throw storedUnfolded(storedBase);
  const peers = ranks && plannedPeers(ranks.rank, ranks.count);
  const options = { dtype, device: "meta", ...loading, base, headBase, visionBase, peers } as const;
  const mappedParts = mappedPartsOf(configuration);
  let mappedBytes = 0;
  const mapped: Room = (shape, dtype) => {
    const tensor = withoutMemory(shape, dtype);
    mappedBytes += tensor.bytes;
    return tensor;
  };
  const roomAt = (place: Place, isMapped: boolean): Room =>
    WEIGHT_PLACES[place].mapsFiles && isMapped ? mapped : onMeta;
  const tensor: ReadTensor = (name, _, place) => roomAt(place, mapsWeights)(tensors.get(name)!.shape, dtype);
  const matrix: WeightReader["matrix"] = (name, base, { place, folded }) => {
    const { shape, precision: part } = tensors.get(name)!;
    const room = roomAt(place, part !== undefined && mappedParts.includes(part));
    return base && base !== "bf16"
      ? emptyQuantized(shape as [number, number], base, room)
      : foldedMatrix(room(shape, dtype), folded);
  };
  const shares: ShareReader = {
    dtype,
    outlined: (name, base) => ({ shape: tensors.get(name)!.shape, base }),
    tensor: unread,
    matrix: unread,
  };
  const model = category("weights", () =>
    keep(scope(() => assembleModel(config, options, { tensor, matrix, shares }))),
  );
  return { model, mappedBytes };
}

function unread(name: string): never {
  throw new Error(`a plan has no data of ${name}`);
}

function onMeta(shape: readonly number[], dtype: DType): Tensor {
  return empty(shape, { dtype, device: "meta" });
}

/** Makes a tensor like a mapped one: contiguous, of this shape, and without memory in any pool. */
function withoutMemory(shape: readonly number[], dtype: DType): Tensor {
  return scope(() => {
    const strides = shape.map((_, dim) =>
      shape.slice(dim + 1).reduce((product, extent) => product * extent, 1),
    );
    return onMeta([1], dtype).asStrided(shape, strides);
  });
}

function emptyLora({
  model,
  lora,
  policy,
  dtype,
}: Pick<Configuration, "model" | "lora" | "policy" | "dtype">): Lora {
  return createLora(model, {
    ...lora,
    ...{ alpha: lora.rank, rslora: false, seed: 0, device: "meta" },
    ...{ gradients: policy.gradients, copies: factorCopies(policy, dtype) },
  });
}

/** Returns the bytes of all LoRA gradients of a run. */
export function gradientBytes(
  configuration: Pick<Configuration, "model" | "lora" | "policy" | "dtype">,
): number {
  const lora = emptyLora(configuration);
  const bytes = gradientsOf(loraParameters(lora)).reduce((sum, gradient) => sum + gradient.bytes, 0);
  disposeLora(lora);
  return bytes;
}
