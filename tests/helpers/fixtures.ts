/**
 * Reads the tensors of a golden .safetensors file without the project's own reader, which is itself under
 * test. Some fixtures keep only every n-th slice of a dim. The file's metadata names them: "stride.NAME":
 * "dim:step".
 */
import { readFileSync } from "node:fs";

export interface Fixture {
  dtype: "F64" | "F32" | "BF16" | "I64" | "I32" | "U8" | "BOOL";
  shape: number[];
  /** Values; bfloat16 is read as Float32Array. */
  data: Float64Array | Float32Array | BigInt64Array | Int32Array | Uint8Array;
  /** Present if only the slices 0, step, 2*step, ... of this dim were kept. */
  stride?: { dim: number; step: number };
}

interface Entry {
  dtype: Fixture["dtype"];
  shape: number[];
  data_offsets: [number, number];
}

type Header = { __metadata__?: Record<string, string> } & Record<string, unknown>;

/** Reads all tensors of a .safetensors file, by name. */
export function readFixture(path: string): Record<string, Fixture> {
  const file = readFileSync(path);
  const headerBytes = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString("utf8", 8, 8 + headerBytes)) as Header;
  const { __metadata__: metadata = {}, ...entries } = header;
  const fixtures: Record<string, Fixture> = {};
  for (const [name, { dtype, shape, data_offsets }] of Object.entries(entries as Record<string, Entry>)) {
    const [start, end] = data_offsets;
    const bytes = new Uint8Array(file.subarray(8 + headerBytes + start, 8 + headerBytes + end)); // aligned
    fixtures[name] = { dtype, shape, data: DECODERS[dtype](bytes.buffer) };
    const stride = metadata[`stride.${name}`]?.split(":").map(Number);
    if (stride) fixtures[name].stride = { dim: stride[0] ?? 0, step: stride[1] ?? 1 };
  }
  return fixtures;
}

/** Returns the data of a floating-point fixture. Throws if the name is unknown or the type is another. */
export function floats(fixtures: Record<string, Fixture>, name: string): Float32Array {
  const { data, dtype } = find(fixtures, name);
  if (!(data instanceof Float32Array)) throw new Error(`${name} is ${dtype}`);
  return data;
}

/**
 * Returns the data of an integer or bool fixture as numbers. Throws if the name is unknown or the type is
 * another.
 */
export function integers(fixtures: Record<string, Fixture>, name: string): number[] {
  const { data, dtype } = find(fixtures, name);
  if (data instanceof Float32Array || data instanceof Float64Array) throw new Error(`${name} is ${dtype}`);
  return Array.from(data as ArrayLike<number | bigint>, Number);
}

/** Cuts a full tensor down to the slices that a fixture with a stride keeps. */
export function keepStride<T extends Float32Array | number[]>(
  full: T,
  shape: number[],
  stride: Fixture["stride"],
): number[] {
  if (!stride) return Array.from(full);
  const inner = shape.slice(stride.dim + 1).reduce((product, extent) => product * extent, 1);
  const extent = shape[stride.dim] ?? 1;
  return Array.from(full).filter((_, index) => (Math.floor(index / inner) % extent) % stride.step === 0);
}

function find(fixtures: Record<string, Fixture>, name: string): Fixture {
  const found = fixtures[name];
  if (!found) throw new Error(`no tensor "${name}"; there are ${Object.keys(fixtures).join(", ")}`);
  return found;
}

const DECODERS = {
  F64: (buffer) => new Float64Array(buffer),
  F32: (buffer) => new Float32Array(buffer),
  BF16: (buffer) => {
    const words = Uint32Array.from(new Uint16Array(buffer), (half) => half << 16);
    return new Float32Array(words.buffer);
  },
  I64: (buffer) => new BigInt64Array(buffer),
  I32: (buffer) => new Int32Array(buffer),
  U8: (buffer) => new Uint8Array(buffer),
  BOOL: (buffer) => new Uint8Array(buffer),
} as const satisfies Record<Fixture["dtype"], (buffer: ArrayBuffer) => Fixture["data"]>;
