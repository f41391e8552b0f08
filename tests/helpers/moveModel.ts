/** Moves a model to other places, for tests that run one model under many policies. */
import { partOnDevice } from "../../src/models/parts.ts";
import { mapTensors, type Place, type Places } from "../../src/models/places.ts";
import { Gathering, type PartName } from "../../src/models/shares/gathering.ts";
import { type Share, shareOf } from "../../src/models/shares/share.ts";
import type { Model } from "../../src/models/weights.ts";
import { emptyOnHost } from "../../src/torch/copies.ts";
import { empty } from "../../src/torch/create.ts";
import { category } from "../../src/torch/device.ts";
import { ALONE, type Peers } from "../../src/torch/peers/peers.ts";
import { dispose, keep, scope, type Tensor } from "../../src/torch/tensor.ts";

/** Moves the parts whose place changes, and frees their old tensors. peers: who shares what is shared. */
export function moveModel_(model: Model, places: Places, peers: Peers = ALONE): void {
  const { device, places: before } = model;
  const old = { ...model };
  const shares = new Map<PartName, Share>();
  const move = <T>(name: PartName, part: T, from: Place, to: Place): T => {
    if (from === to && to !== "shared") return part;
    const moved = { part };
    category("weights", () => {
      const { outline, share } = keep(scope(() => moving(name, part, from, to)));
      if (share) shares.set(name, share);
      moved.part = outline;
    });
    dispose(part);
    return moved.part;
  };
  const moving = <T>(name: PartName, part: T, from: Place, to: Place): { outline: T; share?: Share } => {
    const whole = (from === "shared" ? partOnDevice(old, name) : part) as T;
    if (to === "shared") return shareOf(whole, peers, device, (x) => x);
    const room = ({ shape, dtype }: Tensor): Tensor =>
      to === "host" ? emptyOnHost(shape, { dtype, device }) : empty(shape, { dtype, device });
    return { outline: mapTensors(whole, (x) => room(x).copy_(x)) };
  };
  model.layers = model.layers.map((layer, index) => move(index, layer, before.layers, places.layers));
  if (model.head === model.embeddings) model.head = copied(model.head);
  model.embeddings = move("embeddings", model.embeddings, before.embeddings, places.embeddings);
  model.head = move("head", model.head, before.head, places.head);
  model.vision = move("vision", model.vision, before.vision, places.vision);
  model.places = places;
  dispose(model.shared);
  model.shared =
    shares.size > 0 ? { gathering: new Gathering(peers, shares, device), shares, nf4: [] } : undefined;
}

/** Returns a copy of a tied head, which can then lie elsewhere than the embeddings. */
function copied<T>(part: T): T {
  return mapTensors(part, (x) => category("weights", () => keep(scope(() => x.clone()))));
}
