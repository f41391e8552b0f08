/** Element types and devices: lorafit's names, and libtorch's numbers for them. */

/**
 * Element types. `code`: its c10::ScalarType. `array`: the typed array that JavaScript reads elements into;
 * undefined: elements are read as float32.
 */
// biome-ignore format: columns line up
export const DTYPES = {
  uint8:         { code: 0,  bytes: 1, array: Uint8Array },
  int8:          { code: 1,  bytes: 1, array: Int8Array },
  int16:         { code: 2,  bytes: 2, array: Int16Array },
  int32:         { code: 3,  bytes: 4, array: Int32Array },
  int64:         { code: 4,  bytes: 8, array: BigInt64Array },
  float16:       { code: 5,  bytes: 2, array: undefined },
  float32:       { code: 6,  bytes: 4, array: Float32Array },
  float64:       { code: 7,  bytes: 8, array: Float64Array },
  bool:          { code: 11, bytes: 1, array: Uint8Array },
  bfloat16:      { code: 15, bytes: 2, array: undefined },
  float8_e5m2:   { code: 23, bytes: 1, array: undefined },
  float8_e4m3fn: { code: 24, bytes: 1, array: undefined },
  uint16:        { code: 27, bytes: 2, array: Uint16Array },
  uint32:        { code: 28, bytes: 4, array: Uint32Array },
  uint64:        { code: 29, bytes: 8, array: BigUint64Array },
} as const;

export type DType = keyof typeof DTYPES;
export type CardDevice = `cuda:${number}`;
export type Device = "cpu" | "meta" | CardDevice;

/** Whether a device is a card. */
export function isCard(device: Device): device is CardDevice {
  return device.startsWith("cuda:");
}

/** The typed arrays that toArray returns. */
export type TensorData =
  | Uint8Array
  | Int8Array
  | Int16Array
  | Int32Array
  | BigInt64Array
  | Float32Array
  | Float64Array
  | Uint16Array
  | Uint32Array
  | BigUint64Array;

const DTYPE_OF_CODE = new Map(Object.entries(DTYPES).map(([name, { code }]) => [code, name as DType]));

/** Returns the name of a c10::ScalarType. */
export function dtypeOfCode(code: number): DType {
  const dtype = DTYPE_OF_CODE.get(code as never);
  if (!dtype) throw new Error(`no dtype has the number ${code}`);
  return dtype;
}

/** Returns the bytes of one element. */
export function dtypeBytes(dtype: DType): number {
  return DTYPES[dtype].bytes;
}

/**
 * Returns the engine's number of a dtype. null and undefined pass through. Any other value becomes a symbol,
 * which the engine's error describes.
 */
export function dtypeCode(dtype: DType | null | undefined): number | symbol | null | undefined {
  if (dtype === undefined || dtype === null) return dtype;
  return DTYPES[dtype]?.code ?? notA(dtype);
}

const DEVICE_TYPES = { cpu: 0, cuda: 1, meta: 14 } as const; // c10::DeviceType

/**
 * Returns the engine's number of a device: type * 256 + index + 1, where index is -1 for cpu and meta. null
 * and undefined pass through. Any other value becomes a symbol, which the engine's error describes.
 */
export function deviceCode(device: Device | null | undefined): number | symbol | null | undefined {
  if (device === undefined || device === null) return device;
  if (device === "cpu") return DEVICE_TYPES.cpu * 256;
  if (device === "meta") return DEVICE_TYPES.meta * 256;
  const index = /^cuda:(\d{1,2})$/.exec(device)?.[1];
  return index === undefined ? notA(device) : DEVICE_TYPES.cuda * 256 + Number(index) + 1;
}

/** Returns the name of a device's number. */
export function deviceOfCode(code: number): Device {
  const type = Math.floor(code / 256);
  if (type === DEVICE_TYPES.cpu) return "cpu";
  return type === DEVICE_TYPES.meta ? "meta" : `cuda:${(code % 256) - 1}`;
}

/** Creates a placeholder for a value of a wrong type. The engine's error contains its description. */
export function notA(value: unknown): symbol {
  if (typeof value === "string") return Symbol(`string "${value.slice(0, 40)}"`);
  if (typeof value !== "object" || value === null) return Symbol(value === null ? "null" : typeof value);
  return Symbol(Array.isArray(value) ? "array" : (value.constructor?.name ?? "object"));
}
