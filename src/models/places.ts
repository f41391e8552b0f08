/** Where the parts of the frozen base lie, and how those on the host come to the device. */
import { type PendingCopy, startCopy } from "../torch/copies.ts";
import { empty } from "../torch/create.ts";
import { type Category, category, pool } from "../torch/device.ts";
import type { Device } from "../torch/dtypes.ts";
import { dispose, keep, scope, Tensor } from "../torch/tensor.ts";
import { countExposed } from "../torch/trace.ts";

export type Place = "device" | "host";

/** Of each part; norms outside of layers are always on the device. */
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
}

/** Starts copying a part of a model to its device; one that lies there is ready, and stays. */
export function startFetch<T>(
  part: T,
  place: Place,
  device: Device,
  bookedTo: Category = "weights",
): Fetch<T> {
  if (place === "device") return { wait: () => part, [Symbol.dispose]: () => {} };
  const [tensors, copies]: [Tensor[], PendingCopy[]] = [[], []];
  const finish = (how: (copy: PendingCopy) => void): void => copies.splice(0).forEach(how);
  const giveUp = (): void => {
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
    giveUp(); // of those that memory sufficed for nobody else knows
    throw thrown;
  }
  return {
    wait: () => {
      finish((copy) => copy.wait());
      return fetched;
    },
    [Symbol.dispose]: giveUp,
  };
}

/** A part of a model on its device: itself where it lies there, else a copy that belongs to the open scope. */
export function onDevice<T>(part: T, place: Place, device: Device): T {
  return place === "device" ? part : copyOf(part, device);
}

/** The device whose tensors lie on the host: on cpu and meta the host is another pool of the same. */
export function hostOf(device: Device): Device {
  return device.startsWith("cuda") ? "cpu" : device;
}

/** Copies of a record's tensors on the device; they belong to the open scope. */
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

/** The same record with each tensor, in arrays and plain objects, replaced. */
export function mapTensors<T>(record: T, change: (x: Tensor) => Tensor): T {
  return mapped(record, change) as T;
}

function mapped(value: unknown, change: (x: Tensor) => Tensor): unknown {
  if (value instanceof Tensor) return change(value);
  if (Array.isArray(value)) return value.map((part) => mapped(part, change));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(Object.entries(value).map(([name, part]) => [name, mapped(part, change)]));
}
