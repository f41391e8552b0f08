/** Tensors from arrays, shapes and other tensors. */
import { planTarget } from "./device.ts";
import { type Device, DTYPES, type DType, dtypeCode, isCard, type TensorData } from "./dtypes.ts";
import { native } from "./native.ts";
import {
  _arange,
  _cat,
  _empty,
  _full,
  _ones,
  _rand,
  _randint,
  _randn,
  _randperm,
  _stack,
  _where,
  _whereScalar,
  _whereScalarSelf,
  _zeros,
} from "./ops.gen.ts";
import type { Generator } from "./random.ts";
import { scope, Tensor } from "./tensor.ts";

/**
 * Device and dtype of a new tensor; default: float32 on cpu. A tensor works as options too: the new tensor
 * gets its dtype and device.
 */
export interface TensorOptions {
  dtype?: DType | undefined;
  device?: Device | undefined;
}

type RandomOptions = TensorOptions & { generator?: Generator | undefined };

/**
 * Returns a tensor of this shape with a copy of the data. Its dtype is `dtype`, or by default the array's own
 * (float32 for a list). Throws if the data's length does not fit the shape.
 */
export function fromArray(
  data: readonly number[] | TensorData | Uint8ClampedArray,
  shape: readonly number[],
  { dtype, device }: TensorOptions = {},
): Tensor {
  const array = ArrayBuffer.isView(data) ? data : arrayOf(data, dtype);
  if (device === "meta") return plannedArray(shape, dtypeOfArray(array), dtype);
  const own = new Tensor(native.fromBytes(array, dtypeCode(dtypeOfArray(array)), shape));
  if ((dtype ?? own.dtype) === own.dtype && (device ?? "cpu") === "cpu") return own;
  if (device && isCard(device) && own.numel > 0) return sentToCard(own, dtype ?? own.dtype, device);
  using host = own;
  return host.to({ dtype, device });
}

/**
 * Allocates what fromArray would, without data. On the CPU, a cast briefly needs both the array's tensor and
 * the result.
 */
function plannedArray(shape: readonly number[], from: DType, to: DType = from): Tensor {
  const isCast = from !== to && planTarget().device === "cpu";
  if (!isCast) return empty(shape, { dtype: to, device: "meta" });
  using own = empty(shape, { dtype: from, device: "meta" });
  return own.to({ dtype: to });
}

/** Copies through pinned memory, so the host does not wait for the card's queued work. */
function sentToCard(own: Tensor, dtype: DType, device: Device): Tensor {
  return scope(() => {
    using host = own;
    const pinned = empty(host.shape, { dtype, pinMemory: true }).copy_(host);
    return pinned.to({ device, nonBlocking: true });
  });
}

/**
 * Returns a tensor of this shape with a copy of its raw bytes, in row-major order. Throws if there are too
 * few or too many bytes.
 */
export function fromBytes(bytes: Uint8Array, shape: readonly number[], dtype: DType): Tensor {
  return new Tensor(native.fromBytes(bytes, dtypeCode(dtype), shape));
}

/**
 * Returns a tensor with undefined contents. `pinMemory`: cpu memory that a card can read and write directly.
 */
export function empty(
  shape: readonly number[],
  { dtype = "float32", device, pinMemory }: TensorOptions & { pinMemory?: boolean } = {},
): Tensor {
  return _empty(shape, { dtype, device, pinMemory });
}

export function zeros(shape: readonly number[], { dtype = "float32", device }: TensorOptions = {}): Tensor {
  return _zeros(shape, { dtype, device });
}

export function ones(shape: readonly number[], { dtype = "float32", device }: TensorOptions = {}): Tensor {
  return _ones(shape, { dtype, device });
}

export function full(
  shape: readonly number[],
  value: number | bigint | boolean,
  { dtype = "float32", device }: TensorOptions = {},
): Tensor {
  return _full(shape, value, { dtype, device });
}

/**
 * Returns the integers from `start` (default: 0) to below `end`. Default dtype: int64, because most of them
 * are positions.
 */
export function arange(end: number, options?: TensorOptions): Tensor;
export function arange(start: number, end: number, options?: TensorOptions): Tensor;
export function arange(first: number, second?: number | TensorOptions, third?: TensorOptions): Tensor {
  const [start, end, options] = typeof second === "number" ? [first, second, third] : [0, first, second];
  return _arange(start, end, { dtype: options?.dtype ?? "int64", device: options?.device });
}

/** Draws from the uniform distribution on [0, 1). */
export function rand(
  shape: readonly number[],
  { generator, dtype = "float32", device }: RandomOptions = {},
): Tensor {
  return _rand(shape, { generator: generator ?? null, dtype, device });
}

/** Draws from the standard normal distribution. */
export function randn(
  shape: readonly number[],
  { generator, dtype = "float32", device }: RandomOptions = {},
): Tensor {
  return _randn(shape, { generator: generator ?? null, dtype, device });
}

/** Draws integers from `low` to below `high`. Default dtype: int64. */
export function randint(
  low: number,
  high: number,
  shape: readonly number[],
  { generator, dtype = "int64", device }: RandomOptions = {},
): Tensor {
  return _randint(low, high, shape, { generator: generator ?? null, dtype, device });
}

/** Returns the integers from 0 to below `n` in random order. Default dtype: int64. */
export function randperm(n: number, { generator, dtype = "int64", device }: RandomOptions = {}): Tensor {
  return _randperm(n, { generator: generator ?? null, dtype, device });
}

/** Joins tensors along an existing dimension. */
export function cat(tensors: readonly Tensor[], dim = 0): Tensor {
  return _cat(tensors, { dim });
}

/** Joins tensors of one shape along a new dimension. */
export function stack(tensors: readonly Tensor[], dim = 0): Tensor {
  return _stack(tensors, { dim });
}

/** Selects `a` where the condition is true, else `b`. All three are broadcast. */
export function where(condition: Tensor, a: Tensor | number, b: Tensor | number): Tensor {
  if (typeof a !== "number") return _where(condition, a, b);
  return typeof b === "number" ? _whereScalar(condition, a, b) : _whereScalarSelf(condition, a, b);
}

/** Stores a list in an array that loses no precision before the cast to `dtype`. */
function arrayOf(data: readonly number[], dtype: DType | undefined): Float32Array | Float64Array {
  const narrow = dtype === undefined || DTYPES[dtype].array === undefined || dtype === "float32";
  return narrow ? Float32Array.from(data) : Float64Array.from(data);
}

function dtypeOfArray(array: ArrayBufferView): DType {
  if (array instanceof Uint8ClampedArray) return "uint8";
  const found = Object.entries(DTYPES).find(([, { array: known }]) => known && array instanceof known);
  if (!found) throw new TypeError(`no dtype has elements as in ${array.constructor.name}`);
  return found[0] as DType;
}
