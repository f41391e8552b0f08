/**
 * Deepstack: features of pictures that each of the first decoder layers adds to the pictures' rows. They come
 * from inner layers of the frozen tower, so gradients pass through the addition unchanged. Source:
 * arXiv:2406.04334.
 */
import { type Rows, rowCount, rowsOf } from "../nn/rows.ts";
import { empty } from "../torch/create.ts";
import { category } from "../torch/device.ts";
import { keep, scope, type Tensor } from "../torch/tensor.ts";
import { familyOf } from "./families.ts";
import type { ModelConfig } from "./family.ts";
import type { Model } from "./weights.ts";

/** The features of the pictures in some rows. */
export interface Deepstack {
  /** (layers, rows of pictures, C) */
  values: Tensor;
  /** Rows of each picture, in the order of the values. A picture may have none. */
  slices: readonly Rows[];
}

/** Returns how many decoder layers, from the first on, add features of pictures. */
export function deepstackLayers(config: ModelConfig): number {
  return familyOf(config).pictures.deepstackLayers?.(config) ?? 0;
}

/**
 * Returns room for the features of pictures, whose values the caller disposes; undefined if the model has no
 * such features, or the rows no pictures.
 */
export function emptyDeepstack(
  { config, dtype, device }: Pick<Model, "config" | "dtype" | "device">,
  slices: readonly Rows[],
): Deepstack | undefined {
  const layers = deepstackLayers(config);
  const rows = slices.reduce((sum, slice) => sum + rowCount(slice), 0);
  if (layers * rows === 0) return undefined;
  const shape = [layers, rows, config.hidden];
  return { values: category("visionFeatures", () => keep(empty(shape, { dtype, device }))), slices };
}

/** Returns views of a picture's features, (its rows, C) for each layer; the open scope owns them. */
export function featuresOf({ values, slices }: Deepstack, picture: number): Tensor[] {
  const start = slices.slice(0, picture).reduce((sum, slice) => sum + rowCount(slice), 0);
  const count = rowCount(slices[picture]!);
  return Array.from({ length: values.shape[0]! }, (_, layer) =>
    values.select(0, layer).narrow(0, start, count),
  );
}

/**
 * Returns the parts of features that lie side by side, (rows, (1 + layers) * C): image tokens, then those of
 * each layer. The caller disposes the views, (rows, C) each.
 */
export function partsOfFeatures(
  features: Tensor,
  { config }: Pick<Model, "config">,
): [tokens: Tensor, ...layers: Tensor[]] {
  const { hidden: C } = config;
  const part = (index: number): Tensor => features.narrow(1, index * C, C);
  const layers = Array.from({ length: deepstackLayers(config) }, (_, layer) => layer);
  return keep(scope((): [Tensor, ...Tensor[]] => [part(0), ...layers.map((layer) => part(1 + layer))]));
}

/** Adds a layer's features to its output, (T, C), if it has any. */
export function addDeepstack_(hidden: Tensor, deepstack: Deepstack | undefined, layer: number): void {
  if (!deepstack || layer >= deepstack.values.shape[0]!) return;
  scope(() => {
    for (const [picture, slice] of deepstack.slices.entries())
      if (rowCount(slice) > 0) rowsOf(hidden, slice).add_(featuresOf(deepstack, picture)[layer]!);
  });
}
