/** Element types as the file formats name them. */
import { DTYPES, type DType } from "../torch/dtypes.ts";

interface Spelling {
  /** Name in a safetensors header. */
  safetensors: string;
  /**
   * Class in module torch that a pickle names for a storage of this type. Newer types come in untyped
   * storages.
   */
  storage?: string;
}

// biome-ignore format: columns line up
export const SPELLINGS = {
  float64:       { safetensors: "F64",  storage: "DoubleStorage" },
  float32:       { safetensors: "F32",  storage: "FloatStorage" },
  float16:       { safetensors: "F16",  storage: "HalfStorage" },
  bfloat16:      { safetensors: "BF16", storage: "BFloat16Storage" },
  int64:         { safetensors: "I64",  storage: "LongStorage" },
  int32:         { safetensors: "I32",  storage: "IntStorage" },
  int16:         { safetensors: "I16",  storage: "ShortStorage" },
  int8:          { safetensors: "I8",   storage: "CharStorage" },
  uint8:         { safetensors: "U8",   storage: "ByteStorage" },
  bool:          { safetensors: "BOOL", storage: "BoolStorage" },
  uint16:        { safetensors: "U16" },
  uint32:        { safetensors: "U32" },
  uint64:        { safetensors: "U64" },
  float8_e4m3fn: { safetensors: "F8_E4M3" },
  float8_e5m2:   { safetensors: "F8_E5M2" },
} as const satisfies Record<DType, Spelling>;

const ENTRIES = Object.entries<Spelling>(SPELLINGS) as [DType, Spelling][];
const BY_SAFETENSORS = new Map(ENTRIES.map(([dtype, { safetensors }]) => [safetensors, dtype]));
const BY_STORAGE = new Map(ENTRIES.map(([dtype, { storage }]) => [storage, dtype]));

/** Returns the type that a safetensors header calls `name`, if lorafit knows it. */
export function dtypeOfSafetensors(name: string): DType | undefined {
  return BY_SAFETENSORS.get(name);
}

/** Returns the type of the elements in a storage class such as "FloatStorage", if lorafit knows it. */
export function dtypeOfStorage(className: string): DType | undefined {
  return BY_STORAGE.get(className);
}

/** Returns the type that PyTorch calls torch.<name>, if lorafit knows it. */
export function dtypeOfTorch(name: string): DType | undefined {
  return Object.hasOwn(DTYPES, name) ? (name as DType) : undefined;
}

/**
 * Counts the elements of a shape; NaN if an extent is no whole number or the product is too large for a
 * double.
 */
export function numelOf(shape: readonly number[]): number {
  if (!shape.every((extent) => Number.isSafeInteger(extent) && extent >= 0)) return Number.NaN;
  const numel = shape.reduce((product, extent) => product * extent, 1);
  return Number.isSafeInteger(numel) ? numel : Number.NaN;
}
