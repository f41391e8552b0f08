/** Adapters as they are served: factors in the computing dtype, applied to rows and never merged. */
import { readAdapter } from "../checkpoint/adapter/peft.ts";
import { officialTargets } from "../models/families.ts";
import type { LinearName } from "../models/family.ts";
import { createLora, type Lora, loraFromAdapter } from "../models/lora.ts";
import type { Model } from "../models/weights.ts";
import { empty } from "../torch/create.ts";
import { category, pool } from "../torch/device.ts";
import { dtypeBytes } from "../torch/dtypes.ts";
import { dispose, keep, scope, type Tensor } from "../torch/tensor.ts";

/** a: (R, in), b: (out, R). */
export interface ServedModule {
  a: Tensor;
  b: Tensor;
  scale: number;
}

export interface ServedAdapter {
  /** By layer, then by linear. */
  layers: ReadonlyMap<LinearName, ServedModule>[];
  bytes: number;
}

type Target = Pick<Model, "config" | "dtype" | "device">;

/** Rank that a plan assumes for an adapter that is not known yet: that of the official recipe. */
export const USUAL_RANK = 64;

/** Says that there is no room for an adapter. */
export class AdapterTooLarge extends Error {
  readonly bytes: number;

  constructor(bytes: number) {
    super(`the adapter needs ${bytes} bytes`);
    this.bytes = bytes;
  }
}

/**
 * Loads an adapter from its folder. Throws UserError if it is damaged or does not fit the model, and
 * AdapterTooLarge if it needs more than so many bytes.
 */
export function loadAdapter(
  target: Target,
  folder: string,
  mostBytes = Number.POSITIVE_INFINITY,
): ServedAdapter {
  const { config, dtype, device } = target;
  return scope(() => {
    const lora = pool("host", () =>
      scope(() => loraFromAdapter(config, readAdapter(folder), { device: "cpu", gradients: "none" })),
    );
    const numbers = [...lora.modules.values()].reduce(
      (sum, { a, b }) => sum + a.value.numel + b.value.numel,
      0,
    );
    const bytes = numbers * dtypeBytes(dtype);
    if (bytes > mostBytes) throw new AdapterTooLarge(bytes);
    const served = servedForm(lora, target, (factor) => factor.to({ dtype, device, copy: true }));
    dispose(lora.modules);
    return served;
  });
}

/** Makes factors of the official targets without data, for a plan. */
export function plannedAdapter(target: Target, rank = USUAL_RANK): ServedAdapter {
  const { config, dtype } = target;
  return scope(() => {
    const shape = { rank, alpha: rank, rslora: false, dropout: 0, targets: officialTargets(config), seed: 0 };
    const lora = pool("host", () => createLora(config, { ...shape, device: "meta", gradients: "none" }));
    const served = servedForm(lora, target, (factor) => empty(factor.shape, { dtype, device: "meta" }));
    dispose(lora.modules);
    return served;
  });
}

/** Makes factors of the same shapes without data, for a plan. */
export function emptyTwin({ layers, bytes }: ServedAdapter): ServedAdapter {
  const twin = ({ shape, dtype }: Tensor): Tensor => empty(shape, { dtype, device: "meta" });
  return category("loraParameters", () =>
    keep(
      scope(() => ({
        layers: layers.map(
          (modules) =>
            new Map([...modules].map(([name, { a, b, scale }]) => [name, { a: twin(a), b: twin(b), scale }])),
        ),
        bytes,
      })),
    ),
  );
}

export function disposeAdapter({ layers }: ServedAdapter): void {
  dispose(layers);
}

export function servedForm(
  { modules }: Lora,
  { config }: Target,
  own: (factor: Tensor) => Tensor,
): ServedAdapter {
  return category("loraParameters", () =>
    keep(
      scope(() => {
        const layers = Array.from({ length: config.layers }, () => new Map<LinearName, ServedModule>());
        let bytes = 0;
        for (const [name, { a, b, scale }] of modules) {
          const [, layer, linear] = /^layers\.(\d+)\.(.+)$/.exec(name)!;
          const served = { a: own(a.value), b: own(b.value), scale };
          bytes += served.a.bytes + served.b.bytes;
          layers[Number(layer)]!.set(linear!, served);
        }
        return { layers, bytes };
      }),
    ),
  );
}
