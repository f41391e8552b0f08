/** The parts of a model's frozen base by name, and how they come to its device, wherever they lie. */
import type { FrozenMatrix } from "../nn/frozen/frozen.ts";
import type { PictureWeights } from "./family.ts";
import { type Fetch, type Place, type SharedPart, WEIGHT_PLACES } from "./places.ts";
import type { PartName } from "./shares/gathering.ts";
import type { LayerWeights, Model } from "./weights.ts";

type PartOf<Name extends PartName> = Name extends number
  ? LayerWeights
  : Name extends "vision"
    ? PictureWeights
    : FrozenMatrix;

/** Starts bringing a part to the device. A part that lies there is ready at once. */
export function fetchPart<Name extends PartName>(model: Model, name: Name): Fetch<PartOf<Name>> {
  const place = placeOf(model, name);
  const part = partOf(model, name) as PartOf<Name>;
  return WEIGHT_PLACES[place].startFetch(part, model.device, "weights", sharedPart(model, name, place));
}

/**
 * Returns a part on the device: the part itself if it lies there, else a copy that belongs to the open scope.
 */
export function partOnDevice<Name extends PartName>(model: Model, name: Name): PartOf<Name> {
  const place = placeOf(model, name);
  const part = partOf(model, name) as PartOf<Name>;
  return WEIGHT_PLACES[place].onDevice(part, model.device, sharedPart(model, name, place));
}

function partOf(model: Model, name: PartName): LayerWeights | FrozenMatrix | PictureWeights {
  return typeof name === "number" ? model.layers[name]! : model[name];
}

function placeOf({ places }: Model, name: PartName): Place {
  return typeof name === "number" ? places.layers : places[name];
}

function sharedPart({ shared }: Model, name: PartName, place: Place): SharedPart | undefined {
  return place === "shared" ? shared?.gathering.part(name) : undefined;
}
