/**
 * The layers' frozen weights, on the device when their turn comes: resident, streamed from the host, or
 * brought together from the shares of all ranks. The next layers are fetched while one computes, and each is
 * freed right after its use.
 */
import { fetchPart } from "../models/parts.ts";
import type { Fetch, Place } from "../models/places.ts";
import type { LayerWeights, Model } from "../models/weights.ts";
import type { LayerPolicy } from "./policy.ts";

export interface LayerSource extends Disposable {
  /** Announces the layers that will be visited, in order; those of an order before are done with. */
  begin(order: readonly number[]): void;
  /** The weights of the next layer of the order, until it is left. */
  enter(index: number): LayerWeights;
  leave(): void;
}

/**
 * How the layers' weights come to the device, by the place where they lie. aheadLayers: layers fetched before
 * their turn.
 */
const LAYER_SOURCES: Record<Place, (model: Model, aheadLayers: number) => LayerSource> = {
  device: ({ layers }) => new ResidentLayers(layers),
  host: streamed,
  shared: streamed,
};

function streamed(model: Model, aheadLayers: number): LayerSource {
  return new StreamedLayers((index) => fetchPart(model, index), aheadLayers);
}

/** Returns the source of a model's layers. */
export function layerSource(model: Model, aheadLayers: number): LayerSource {
  return LAYER_SOURCES[model.places.layers](model, aheadLayers);
}

/** Layers in the order in which the forward visits them. */
export function forwardVisits(layers: number): number[] {
  return Array.from({ length: layers }, (_, layer) => layer);
}

/**
 * Returns the layers in the order in which the backward visits them. Before a layer without a boundary come
 * those that it is restored through.
 */
export function backwardVisits(policies: readonly Pick<LayerPolicy, "boundary">[]): number[] {
  const saved = policies.map(({ boundary }) => boundary !== "none");
  const visits: number[] = [];
  for (let layer = policies.length - 1; layer >= 0; layer--) {
    if (!saved[layer]) {
      for (let from = saved.lastIndexOf(true, layer); from < layer; from++) {
        visits.push(from);
        saved[from + 1] = true;
      }
    }
    visits.push(layer);
  }
  return visits;
}

class ResidentLayers implements LayerSource {
  readonly #layers: readonly LayerWeights[];

  constructor(layers: readonly LayerWeights[]) {
    this.#layers = layers;
  }

  begin(): void {}

  enter(index: number): LayerWeights {
    return this.#layers[index]!;
  }

  leave(): void {}

  [Symbol.dispose](): void {}
}

class StreamedLayers implements LayerSource {
  readonly #fetch: (index: number) => Fetch<LayerWeights>;
  readonly #aheadLayers: number;
  readonly #fetched = new Map<number, Fetch<LayerWeights>>();
  /** Visits to come, the one under way first. */
  #order: readonly number[] = [];

  constructor(fetch: (index: number) => Fetch<LayerWeights>, aheadLayers: number) {
    this.#fetch = fetch;
    this.#aheadLayers = aheadLayers;
  }

  begin(order: readonly number[]): void {
    this.#order = order;
    this.#evictBut(order.slice(0, 1));
  }

  enter(index: number): LayerWeights {
    if (index !== this.#order[0]) throw new Error(`layer ${index} was visited instead of ${this.#order[0]}`);
    if (!this.#fetched.has(index)) {
      const fetch = this.#fetch(index);
      this.#fetched.set(index, fetch);
      fetch.expose(); // as the first layer of the forward and of the backward: nothing computes meanwhile
    }
    for (const wanted of this.#order.slice(0, 1 + this.#aheadLayers)) {
      if (!this.#fetched.has(wanted)) this.#fetched.set(wanted, this.#fetch(wanted));
    }
    return this.#fetched.get(index)!.wait();
  }

  leave(): void {
    this.#order = this.#order.slice(1);
    this.#evictBut(this.#order.slice(0, Math.max(1, this.#aheadLayers)));
  }

  [Symbol.dispose](): void {
    this.#evictBut([]);
  }

  #evictBut(wanted: readonly number[]): void {
    for (const [index, fetched] of this.#fetched) {
      if (wanted.includes(index)) continue;
      fetched[Symbol.dispose]();
      this.#fetched.delete(index);
    }
  }
}
