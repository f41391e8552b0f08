/**
 * The places of the parts of the frozen base, and how weights come from there to the device: a table with a
 * row for each place.
 */
import { type PendingCopy, startCopy } from "../torch/copies.ts";
import { empty } from "../torch/create.ts";
import { type Category, category, type Pool, pool } from "../torch/device.ts";
import { type Device, isCard } from "../torch/dtypes.ts";
import { dispose, keep, scope, Tensor } from "../torch/tensor.ts";
import { countExposed } from "../torch/trace.ts";

/** Where the weights of a part lie. shared: on the devices of all ranks, which hold a share each. */
export type Place = "device" | "host" | "shared";

/** The place of each part. Norms outside of layers are always on the device. */
export interface Places {
  layers: Place;
  embeddings: Place;
  head: Place;
  vision: Place;
}

export const ON_DEVICE: Places = { layers: "device", embeddings: "device", head: "device", vision: "device" };

/** A part of a model on its way to the device. */
export interface Fetch<T> extends Disposable {
  /** The part on the device, ready to be used until this is disposed. */
  wait(): T;
  /** Counts, in a plan, that nothing computes until the part has come. Call this right after its start. */
  expose(): void;
}

/** Brings the shares of a part together, whose outline the model has. */
export interface SharedPart {
  startFetch<T>(outline: T, bookedTo: Category): Fetch<T>;
  /** Returns the part at once. It belongs to the open scope. */
  onDevice<T>(outline: T): T;
}

/** How weights lie at a place, and how they come from there. shared: of a part in shares. */
interface WeightPlace {
  /** The pool that their memory counts to. */
  pool: Pool;
  /** The device of their tensors, for a model that computes on the given device. */
  deviceOf(computing: Device): Device;
  /** Whether they may be the checkpoint's mapped file itself, which nothing may write to. */
  mapsFiles: boolean;
  /** Starts bringing a part to the device, with memory there counted to a category. */
  startFetch<T>(part: T, device: Device, bookedTo: Category, shared?: SharedPart): Fetch<T>;
  /** Returns a part on the device at once; what had to be copied belongs to the open scope. */
  onDevice<T>(part: T, device: Device, shared?: SharedPart): T;
}

export const WEIGHT_PLACES: Record<Place, WeightPlace> = {
  device: {
    pool: "device",
    deviceOf: (computing) => computing,
    mapsFiles: false,
    startFetch: (part) => ({ wait: () => part, expose: () => {}, [Symbol.dispose]: () => {} }),
    onDevice: (part) => part,
  },
  host: {
    pool: "host",
    deviceOf: (computing) => (isCard(computing) ? "cpu" : computing), // on cpu and meta the host is another pool
    mapsFiles: true,
    startFetch: startCopies,
    onDevice: copyOf,
  },
  shared: {
    pool: "device",
    deviceOf: (computing) => computing,
    mapsFiles: false,
    startFetch: (outline, _device, bookedTo, shared) => shared!.startFetch(outline, bookedTo),
    onDevice: (outline, _device, shared) => shared!.onDevice(outline),
  },
};

/** Starts bringing tensors from a place to the device. Tensors that lie there are ready at once. */
export function startFetch<T>(
  part: T,
  place: Exclude<Place, "shared">,
  device: Device,
  bookedTo: Category = "weights",
): Fetch<T> {
  return WEIGHT_PLACES[place].startFetch(part, device, bookedTo);
}

/** Starts copying a record's tensors to the device. */
function startCopies<T>(part: T, device: Device, bookedTo: Category): Fetch<T> {
  const [tensors, copies]: [Tensor[], PendingCopy[]] = [[], []];
  const finish = (how: (copy: PendingCopy) => void): void => copies.splice(0).forEach(how);
  const free = (): void => {
    finish((copy) => copy[Symbol.dispose]());
    dispose(tensors);
  };
  const fetchOne = (x: Tensor): Tensor => {
    const copy = keep(emptyOnDevice(x, device));
    tensors.push(copy);
    copies.push(startCopy(copy, x));
    return copy;
  };
  let fetched: T;
  try {
    fetched = booked(bookedTo, () => mapTensors(part, fetchOne));
  } catch (thrown) {
    free(); // nobody else knows of the tensors that had room
    throw thrown;
  }
  return {
    wait: () => {
      finish((copy) => copy.wait());
      return fetched;
    },
    expose: countExposed,
    [Symbol.dispose]: free,
  };
}

/** Copies a record's tensors to the device; the copies belong to the open scope. */
function copyOf<T>(record: T, device: Device): T {
  const copied = booked("weights", () =>
    mapTensors(record, (x) => {
      const copy = emptyOnDevice(x, device);
      startCopy(copy, x).wait();
      return copy;
    }),
  );
  countExposed();
  return copied;
}

/** Runs the body, which returns no promise, with allocations counted to a category. */
function booked<T>(to: Category, body: () => T): T {
  const result: { value?: T } = {};
  category(to, () => {
    result.value = body();
  });
  return result.value as T;
}

function emptyOnDevice({ shape, dtype }: Tensor, device: Device): Tensor {
  return pool("device", () => scope(() => empty(shape, { dtype, device })));
}

/** Returns a copy of a record in which each tensor, in arrays and plain objects, is replaced. */
export function mapTensors<T>(record: T, change: (x: Tensor) => Tensor): T {
  return mapped(record, change) as T;
}

function mapped(value: unknown, change: (x: Tensor) => Tensor): unknown {
  if (value instanceof Tensor) return change(value);
  if (Array.isArray(value)) return value.map((part) => mapped(part, change));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, mapped(part, change)]));
}
