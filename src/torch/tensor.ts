/**
 * Tensors with deterministic lifetimes, because device memory can't wait for the garbage collector. Every
 * tensor belongs to the scope that it was made in, which frees it at its end. Exceptions: it was returned,
 * kept or already disposed.
 */
import {
  type Device,
  DTYPES,
  type DType,
  deviceCode,
  deviceOfCode,
  dtypeBytes,
  dtypeCode,
  dtypeOfCode,
  type TensorData,
} from "./dtypes.ts";
import { handlesOf, registerTensorClass, wrap } from "./handle.ts";
import { TensorOps } from "./methods.gen.ts";
import { type Handle, native } from "./native.ts";

export type { Device, DType } from "./dtypes.ts";

interface Scope {
  readonly outer: Scope | undefined;
  tensors: Tensor[];
  /** Length of `tensors` at which disposed ones are removed from the list. */
  sweepAt: number;
}

let innermost: Scope | undefined;

const TO = native.resolve("aten::to", "dtype_layout", []);

/**
 * A tensor of libtorch, with operators as methods. The caller must dispose a tensor that is made outside of
 * any scope.
 */
export class Tensor extends TensorOps<Tensor> implements Disposable {
  /** The scope that frees this tensor; undefined if the caller does. */
  owner: Scope | undefined;
  private knownShape: readonly number[] | undefined;
  private knownDtype: DType | undefined;
  private knownDevice: Device | undefined;

  constructor(handle: Handle) {
    super(handle);
    this.owner = innermost;
    this.knownShape = undefined;
    this.knownDtype = undefined;
    this.knownDevice = undefined;
    if (innermost) adopt(innermost, this);
  }

  get shape(): readonly number[] {
    this.knownShape ??= native.shape(this.handle);
    return this.knownShape;
  }

  get dtype(): DType {
    this.knownDtype ??= dtypeOfCode(native.dtype(this.handle));
    return this.knownDtype;
  }

  get device(): Device {
    this.knownDevice ??= deviceOfCode(native.device(this.handle));
    return this.knownDevice;
  }

  get ndim(): number {
    return this.shape.length;
  }

  get numel(): number {
    return this.shape.reduce((product, size) => product * size, 1);
  }

  /** Bytes of the tensor's elements, however large its storage is. */
  get bytes(): number {
    return this.numel * dtypeBytes(this.dtype);
  }

  /** Number of elements between neighbouring indexes, for each dimension. */
  get strides(): readonly number[] {
    return native.strides(this.handle);
  }

  get isContiguous(): boolean {
    return native.isContiguous(this.handle);
  }

  get requiresGrad(): boolean {
    return native.requiresGrad(this.handle);
  }

  get disposed(): boolean {
    return this.handle === 0;
  }

  /** Sets whether this leaf tensor gets gradients. Returns the tensor itself. */
  requiresGrad_(on = true): this {
    native.setRequiresGrad(this.handle, on);
    return this;
  }

  /**
   * Returns the elements in another dtype or on another device. Shares memory if nothing changes, unless
   * `copy`.
   */
  to(options: {
    dtype?: DType | undefined;
    device?: Device | undefined;
    nonBlocking?: boolean;
    copy?: boolean;
  }): Tensor {
    const { dtype, device, nonBlocking, copy } = options;
    return wrap(
      native.call(
        TO,
        this.handle,
        dtypeCode(dtype),
        undefined,
        deviceCode(device),
        undefined,
        nonBlocking,
        copy,
      ),
    );
  }

  /**
   * Copies the elements in row-major order. Dtypes without a JavaScript array, such as bfloat16, become a
   * Float32Array.
   */
  toArray(): TensorData {
    const { array } = DTYPES[this.dtype];
    using cpu = this.to({
      device: "cpu",
      dtype: array ? this.dtype : "float32",
    });
    return new (array ?? Float32Array)(cpu.toBytes().buffer);
  }

  /** Copies the elements as float32, whatever the dtype. */
  toFloat32Array(): Float32Array {
    using floats = this.to({ device: "cpu", dtype: "float32" });
    return new Float32Array(floats.toBytes().buffer);
  }

  /** Copies the bytes of the elements as in memory, in row-major order. */
  toBytes(): Uint8Array<ArrayBuffer> {
    using cpu = this.to({ device: "cpu" });
    using flat = cpu.contiguous();
    return native.toBytes(flat.handle);
  }

  /** Returns the only element as a number. Throws if there is not exactly one. */
  item(): number {
    return native.item(this.handle);
  }

  /** Frees the tensor. Its memory is freed when no other tensor shares it. A second call does nothing. */
  dispose(): void {
    if (this.handle === 0) return;
    native.dispose(this.handle);
    this.handle = 0;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  override forget(): void {
    this.knownShape = undefined;
    this.knownDtype = undefined;
  }

  override toString(): string {
    return this.disposed
      ? "Tensor(disposed)"
      : `Tensor(${this.dtype}[${this.shape.join(", ")}] ${this.device})`;
  }

  [Symbol.for("nodejs.util.inspect.custom")](): string {
    return this.toString();
  }
}

registerTensorClass(Tensor);

/**
 * Runs the body and frees every tensor made in it, except those reachable from its result. These move to the
 * outer scope. The search covers tensors, arrays, plain objects, Maps and Sets.
 * Throws TypeError if the body is async or a generator, because it would continue after the scope's end.
 */
export function scope<T>(body: () => T extends PromiseLike<unknown> ? never : T): T {
  const own: Scope = { outer: innermost, tensors: [], sweepAt: 256 };
  innermost = own;
  try {
    const result: T = body();
    refuseDeferred(result, "scope");
    for (const tensor of tensorsIn(result)) {
      if (tensor.owner === own) passOn(tensor, own.outer);
    }
    return result;
  } finally {
    innermost = own.outer;
    freeAll(own.tensors.filter((tensor) => tensor.owner === own));
  }
}

/** Removes the tensors in a value from every open scope. The caller then owns and disposes them. */
export function keep<T>(value: T): T {
  for (const tensor of tensorsIn(value)) tensor.owner = undefined;
  return value;
}

/** Frees every tensor reachable from a value. */
export function dispose(value: unknown): void {
  freeAll(tensorsIn(value));
}

/** Runs the body with recording for gradients, which is off otherwise. */
export function withGrad<T>(body: () => T extends PromiseLike<unknown> ? never : T): T {
  const before = native.gradMode(true);
  try {
    const result: T = body();
    refuseDeferred(result, "withGrad");
    return result;
  } finally {
    native.gradMode(before);
  }
}

/**
 * Returns the gradients of the inputs, given those of the outputs; default: ones, for scalar outputs. Frees
 * the graph except with `retainGraph`. Throws if the outputs do not depend on an input.
 */
export function grad(
  outputs: readonly Tensor[],
  inputs: readonly Tensor[],
  gradOutputs: readonly Tensor[] = [],
  { retainGraph = false }: { retainGraph?: boolean } = {},
): Tensor[] {
  const gradients = native.grad(handlesOf(outputs), handlesOf(inputs), handlesOf(gradOutputs), retainGraph);
  return gradients.map((gradient) => wrap(gradient));
}

function adopt(scope: Scope, tensor: Tensor): void {
  if (scope.tensors.length >= scope.sweepAt) {
    scope.tensors = scope.tensors.filter((known) => known.handle !== 0 && known.owner === scope);
    scope.sweepAt = Math.max(256, 2 * scope.tensors.length);
  }
  scope.tensors.push(tensor);
}

function passOn(tensor: Tensor, outer: Scope | undefined): void {
  tensor.owner = outer;
  if (outer) adopt(outer, tensor);
}

function freeAll(tensors: Iterable<Tensor>): void {
  const handles: Handle[] = [];
  for (const tensor of tensors) {
    if (tensor.handle !== 0) handles.push(tensor.handle);
    tensor.handle = 0;
  }
  if (handles.length > 0) native.disposeAll(handles);
}

/**
 * Throws if a body would continue after its call has returned: its tensors would be freed while it uses them.
 */
export function refuseDeferred(result: unknown, where: string): void {
  if (typeof result !== "object" || result === null) return;
  const deferred = "then" in result ? "a promise" : "next" in result ? "an iterator" : undefined;
  if (!deferred) return;
  if (result instanceof Promise) result.catch(() => {}); // the error below reports it; an unhandled rejection would end the process
  throw new TypeError(
    `${where}: the body returned ${deferred}, so it continues after its end; bodies must be synchronous`,
  );
}

/** Collects every tensor reachable from a value through arrays, plain objects, Maps and Sets. */
function tensorsIn(value: unknown, found = new Set<Tensor>(), seen = new Set<object>()): Set<Tensor> {
  if (value instanceof Tensor) return found.add(value);
  if (typeof value !== "object" || value === null || seen.has(value)) return found;
  seen.add(value);
  for (const part of partsOf(value)) tensorsIn(part, found, seen);
  return found;
}

function partsOf(value: object): Iterable<unknown> {
  if (Array.isArray(value) || value instanceof Set) return value;
  if (value instanceof Map) return [...value.keys(), ...value.values()];
  const prototype = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null ? Object.values(value) : [];
}
