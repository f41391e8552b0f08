/**
 * Grants a pickle of torch.save the names that it needs: storages, types, and the functions that make tensors
 * of them.
 */
import { UserError } from "../../errors.ts";
import { type DType, dtypeBytes } from "../../torch/dtypes.ts";
import { spanOf } from "../checkpoint.ts";
import { dtypeOfStorage, dtypeOfTorch, numelOf } from "../dtypes.ts";
import { damaged, quoted } from "../faults.ts";
import type { PickleGlobal, PickleHost } from "./pickle.ts";

/** Bytes beside the pickle; tensors are views of them. */
export interface Storage {
  key: string;
  bytes: number;
  /** Undefined if the tensors on it state their own. */
  dtype: DType | undefined;
}

/** A tensor as the pickle describes it. */
export interface View {
  storage: Storage;
  dtype: DType;
  offsetElements: number;
  shape: number[];
  /** Absent if the tensor is contiguous. */
  strides?: number[];
}

const MAX_DIMS = 64; // libtorch's limit
const views = new WeakSet<object>();

/** Tells whether a value of the pickle is a tensor. */
export function isView(value: unknown): value is View {
  return typeof value === "object" && value !== null && views.has(value);
}

/** Grants the names that tensors need. `storages` collects the storages that the pickle refers to, by key. */
export function torchHost(path: string, storages: Map<string, Storage>): PickleHost {
  const fail = (fault: string): UserError => damaged(path, `its pickle has ${fault}`);
  const callables: Record<string, PickleGlobal["call"]> = {
    "collections.OrderedDict": ([pairs]) => orderedDict(pairs, fail),
    "torch.Size": ([items]) => items,
    "torch._utils._rebuild_parameter": ([tensor]) => tensor,
    "torch._utils._rebuild_tensor_v2": (args) => rebuild(args, undefined, fail),
    "torch._utils._rebuild_tensor_v3": (args) => rebuild(args, args[6], fail),
  };
  return {
    global(module, name) {
      const whole = `${module}.${name}`;
      const call = Object.hasOwn(callables, whole) ? callables[whole] : undefined;
      if (call) return { name: whole, call };
      if (storageType(whole) || torchType(whole)) return { name: whole };
      throw new UserError(
        `${path}: its pickle asks for ${quoted(whole)}, which is refused: only tensors, dicts, lists, numbers and text are read.`,
        {
          fix: "Get the model as safetensors; or, if you trust its source, load it with PyTorch and save its state_dict() alone.",
        },
      );
    },
    persistent(id) {
      const storage = storageOf(id, fail);
      const known = storages.get(storage.key);
      if (known && (known.bytes !== storage.bytes || known.dtype !== storage.dtype)) {
        throw fail(`two descriptions of storage ${quoted(storage.key)}`);
      }
      storages.set(storage.key, known ?? storage);
      return known ?? storage;
    },
  };
}

type Fail = (fault: string) => UserError;

function orderedDict(pairs: unknown, fail: Fail): Map<unknown, unknown> {
  if (pairs === undefined) return new Map();
  const paired =
    Array.isArray(pairs) && pairs.every((pair) => Array.isArray(pair) && typeof pair[0] !== "object");
  if (!paired) throw fail("a dict of what is no pairs");
  return new Map(pairs);
}

/**
 * Returns the type of a storage class such as "torch.FloatStorage"; "untyped" if each tensor states its own.
 */
function storageType(name: string): DType | "untyped" | undefined {
  if (name === "torch.UntypedStorage" || name === "torch.storage.UntypedStorage") return "untyped";
  return name.startsWith("torch.") ? dtypeOfStorage(name.slice("torch.".length)) : undefined;
}

function torchType(name: string): DType | undefined {
  return name.startsWith("torch.") ? dtypeOfTorch(name.slice("torch.".length)) : undefined;
}

/**
 * Reads a storage from ("storage", class, key, location, elements[, view of another storage]); untyped
 * storages count bytes instead of elements.
 */
function storageOf(id: unknown, fail: Fail): Storage {
  const [kind, type, key, , extent, view] = Array.isArray(id) ? id : [];
  const dtype = storageType((type as Partial<PickleGlobal> | undefined)?.name ?? "");
  const known = kind === "storage" && dtype !== undefined && typeof key === "string";
  if (!known || !isCount(extent) || (view ?? null) !== null)
    throw fail("a reference to something that is no storage");
  const bytes = dtype === "untyped" ? extent : extent * dtypeBytes(dtype);
  return { key, bytes, dtype: dtype === "untyped" ? undefined : dtype };
}

/**
 * Makes a view from (storage, offset, shape, strides, ...). Throws UserError unless it lies inside its
 * storage.
 */
function rebuild(args: readonly unknown[], type: unknown, fail: Fail): View {
  const [storage, offsetElements, shape, strides] = args as [Storage | undefined, unknown, unknown, unknown];
  const typeName = (type as Partial<PickleGlobal> | undefined)?.name;
  const dtype = typeName === undefined ? storage?.dtype : torchType(typeName);
  if (
    !dtype ||
    !Number.isSafeInteger(storage?.bytes) ||
    !isCount(offsetElements) ||
    !isCounts(shape) ||
    !isCounts(strides)
  ) {
    throw fail("a tensor with a malformed description");
  }
  const repeats = shape.some((extent, dim) => extent > 1 && strides[dim] === 0);
  if (repeats)
    throw fail(`a tensor [${shape.slice(0, MAX_DIMS)}] that repeats its elements (an expanded one)`);
  const numel = numelOf(shape);
  const storageNumel = storage!.bytes / dtypeBytes(dtype);
  const inside =
    numel === 0 || (numel <= storageNumel && offsetElements + spanOf(shape, strides) <= storageNumel);
  if (Number.isNaN(numel) || strides.length !== shape.length || shape.length > MAX_DIMS || !inside) {
    throw fail(
      `a tensor [${shape.slice(0, MAX_DIMS)}] that does not fit into its storage of ${storage!.bytes} bytes`,
    );
  }
  const contiguous = numel === 0 || isContiguous(shape, strides);
  const view = {
    storage: storage!,
    dtype,
    offsetElements: numel === 0 ? 0 : offsetElements,
    shape,
    ...(contiguous ? {} : { strides }),
  };
  views.add(view);
  return view;
}

function isContiguous(shape: readonly number[], strides: readonly number[]): boolean {
  let expected = 1;
  return shape.toReversed().every((extent, index) => {
    const fits = extent === 1 || strides.at(-1 - index) === expected;
    expected *= extent;
    return fits;
  });
}

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isCounts(value: unknown): value is number[] {
  return Array.isArray(value) && value.every(isCount);
}
