/** Moves a model to other places, for tests that run one model under many policies. */
import { mapTensors, type Place, type Places } from "../../src/models/places.ts";
import type { Model } from "../../src/models/weights.ts";
import { emptyOnHost } from "../../src/torch/copies.ts";
import { category } from "../../src/torch/device.ts";
import { dispose, keep, scope } from "../../src/torch/tensor.ts";

/** Moves the parts whose place changes, and frees their old tensors. */
export function moveModel_(model: Model, places: Places): void {
  const { device, places: before } = model;
  const move = <T>(part: T, from: Place, to: Place): T => {
    if (from === to) return part;
    const moved = { part };
    category("weights", () => {
      moved.part = mapTensors(part, (x) =>
        keep(
          scope(() =>
            (to === "host"
              ? emptyOnHost(x.shape, { dtype: x.dtype, device })
              : x.emptyLike({ device })
            ).copy_(x),
          ),
        ),
      );
    });
    dispose(part);
    return moved.part;
  };
  model.layers = model.layers.map((layer) => move(layer, before.layers, places.layers));
  if (model.head === model.embeddings) model.head = copied(model.head);
  model.embeddings = move(model.embeddings, before.embeddings, places.embeddings);
  model.head = move(model.head, before.head, places.head);
  model.vision = move(model.vision, before.vision, places.vision);
  model.places = places;
}

/** Returns a copy of a tied head, which can then lie elsewhere than the embeddings. */
function copied<T>(part: T): T {
  return mapTensors(part, (x) => category("weights", () => keep(scope(() => x.clone()))));
}
