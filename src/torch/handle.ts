/** Turns handles into Tensors and back, for generated ops. tensor.ts registers its class here. */
import { notA } from "./dtypes.ts";
import type { Handle } from "./native.ts";

/** A number for libtorch: whole numbers are integers to it, others floats. */
export type Scalar = number | bigint | boolean;
export type MemoryFormat = "contiguous" | "preserve" | "channels_last";

export function isScalar(value: unknown): value is Scalar {
  return typeof value === "number" || typeof value === "boolean" || typeof value === "bigint";
}

/** Base class with the number of a C++ tensor. */
export abstract class TensorHandle {
  /** Number of the C++ tensor, for calls into the engine; 0 once disposed. */
  handle: Handle;

  constructor(handle: Handle) {
    this.handle = handle;
    onTensor?.();
  }

  /** Drops the cached shape after an operator changed it. */
  abstract forget(): void;
}

let onTensor: (() => void) | undefined;

/** Calls `watch` whenever a tensor is made, while the functions that made it run; undefined: no longer. */
export function watchTensors(watch: (() => void) | undefined): void {
  onTensor = watch;
}

let TensorClass: new (handle: Handle) => unknown;

/** Registers the class of results. */
export function registerTensorClass(made: new (handle: Handle) => unknown): void {
  TensorClass = made;
}

/**
 * Wraps a result as a tensor of the innermost scope. An undefined tensor (null) stays null, if the operator's
 * type allows it.
 */
export function wrap<Tensor>(handle: Handle): Tensor {
  return handle === null ? (handle as never) : (new TensorClass(handle) as Tensor);
}

/**
 * Wraps several results. `kinds` has a "t" for each tensor and a "v" for each plain value; default: all are
 * tensors.
 */
export function wrapAll(results: Handle[], kinds?: string): unknown[] {
  return results.map((result, at) => (kinds === undefined || kinds[at] === "t" ? wrap(result) : result));
}

/**
 * Returns a tensor's number, as the argument of a call. null and undefined pass through. Any other value
 * becomes a symbol, which the engine's error describes.
 */
export function handleOf(value: unknown): Handle | symbol | null | undefined {
  if (value instanceof TensorHandle) return value.handle;
  return value === undefined || value === null ? value : notA(value);
}

/** Returns the argument for a list of tensors in a call. */
export function handlesOf(values: unknown): unknown {
  if (values === undefined || values === null) return values;
  return Array.isArray(values) ? values.map(handleOf) : notA(values);
}
