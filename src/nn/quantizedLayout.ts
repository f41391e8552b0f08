/**
 * How quantised matrices lie in a checkpoint. NF4 and int8 are as bitsandbytes writes them into safetensors, fp8 is one scale a row; what
 * a matrix is stored as is told by the names beside it.
 */
import { UserError } from "../errors.ts";
import { fromArray, fromBytes } from "../torch/create.ts";
import type { Device } from "../torch/dtypes.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { ChannelMatrix, QuantizedMatrix, QuantizedPrecision } from "./quantized.ts";
import { NESTED_BLOCK, NF4_BLOCK, NF4_MAP, type Nf4Matrix, wholeNf4 } from "./quantizedNf4.ts";

/** What is asked of a checkpoint. */
export interface StoredTensors {
  readonly place: string;
  has(name: string): boolean;
  entry(name: string): { shape: readonly number[] };
  tensor(name: string): Tensor;
}

/** Where stored tensors are wanted: in memory of their own there, or in the mapped file where it will do. */
export interface Target {
  device: Device;
  copy: boolean;
}

interface Layout<M> {
  /** Names beside the weight's own; the first one tells that it is stored so. */
  beside(name: string): string[];
  /** Of the weight's tensor and then of those beside it; undefined: any. */
  shapes(rows: number, columns: number): (readonly number[] | undefined)[];
  read(name: string, shape: readonly [number, number], from: StoredTensors, to: Target): M;
  /** In the order of shapes; the source's dtype is told to who dequantises. */
  tensors(matrix: M, sourceDtype: string): Tensor[];
}

const LAYOUTS: {
  nf4: Layout<Nf4Matrix>;
  int8: Layout<ChannelMatrix>;
  fp8: Layout<ChannelMatrix>;
} = {
  nf4: {
    beside: (name) =>
      ["quant_state.bitsandbytes__nf4", "absmax", "quant_map", "nested_absmax", "nested_quant_map"].map(
        (part) => `${name}.${part}`,
      ),
    shapes(rows, columns) {
      const blocks = Math.ceil((rows * columns) / NF4_BLOCK);
      const bytes = Math.ceil((rows * columns) / 2);
      return [[bytes, 1], undefined, [blocks], [16], [Math.ceil(blocks / NESTED_BLOCK)], [NESTED_BLOCK]];
    },
    read: readNf4,
    tensors: nf4Tensors,
  },
  int8: {
    beside: (name) => [`${moduleOf(name)}.SCB`, `${moduleOf(name)}.weight_format`],
    shapes: (rows, columns) => [[rows, columns], [rows], []],
    read: (name, _, from, to) => readChannels("int8", name, `${moduleOf(name)}.SCB`, from, to),
    tensors: ({ codes, scales }) => [codes, scales, fromBytes(Uint8Array.of(0), [], "uint8")], // 0: by rows
  },
  fp8: {
    beside: (name) => [`${moduleOf(name)}.weight_scale`],
    shapes: (rows, columns) => [
      [rows, columns],
      [rows, 1],
    ],
    read: (name, _, from, to) => readChannels("fp8", name, `${moduleOf(name)}.weight_scale`, from, to),
    tensors: ({ codes, scales }) => [codes, scales.unsqueeze(1)],
  },
};

/** How a weight is stored; undefined where it is in full. */
export function storedPrecision(
  name: string,
  { has }: Pick<StoredTensors, "has">,
): QuantizedPrecision | undefined {
  return Object.entries(LAYOUTS).find(([, { beside }]) => has(beside(name)[0]!))?.[0] as
    | QuantizedPrecision
    | undefined;
}

/** Names and shapes that a weight of [rows, columns] has in a checkpoint, as it is stored there. */
export function storedShapes(
  name: string,
  shape: readonly number[],
  from: Pick<StoredTensors, "has" | "entry">,
): [string, readonly number[]][] {
  const precision = storedPrecision(name, from);
  const [rows, columns] = shape;
  if (!precision || rows === undefined || columns === undefined) return [[name, shape]];
  const { beside, shapes } = LAYOUTS[precision];
  const names = [name, ...beside(name)];
  return shapes(rows, columns).map((wanted, at) => [names[at]!, wanted ?? from.entry(names[at]!).shape]);
}

/** A weight of [rows, columns] that is stored quantised, on `device`. */
export function readQuantized(
  name: string,
  shape: readonly [number, number],
  precision: QuantizedPrecision,
  from: StoredTensors,
  to: Target,
): QuantizedMatrix {
  return scope(() => LAYOUTS[precision].read(name, shape, from, to));
}

/** A whole matrix as the tensors that stand for a weight of this name. */
export function quantizedTensors(
  name: string,
  matrix: QuantizedMatrix,
  sourceDtype: string,
): (readonly [string, Tensor])[] {
  const { beside, tensors } = LAYOUTS[matrix.precision] as Layout<QuantizedMatrix>;
  const names = [name, ...beside(name)];
  return tensors(matrix, sourceDtype).map((tensor, at) => [names[at]!, tensor] as const);
}

function readChannels(
  precision: ChannelMatrix["precision"],
  name: string,
  scalesName: string,
  from: StoredTensors,
  to: Target,
): ChannelMatrix {
  return {
    precision,
    codes: placed(from.tensor(name), to),
    scales: placed(from.tensor(scalesName), to).view([-1]),
  };
}

function readNf4(
  name: string,
  [rows, width]: readonly [number, number],
  from: StoredTensors,
  to: Target,
): Nf4Matrix {
  const part = (suffix: string): Tensor => placed(from.tensor(`${name}.${suffix}`), to);
  const state = readState(from, name);
  const map = from.tensor(`${name}.quant_map`).toFloat32Array();
  const known =
    state.quant_type === "nf4" && state.blocksize === NF4_BLOCK && state.nested_blocksize === NESTED_BLOCK;
  if (!known || typeof state.nested_offset !== "number" || map.some((value, at) => value !== NF4_MAP[at])) {
    throw new UserError(`${from.place}: ${name} is quantised in a way that lorafit does not read.`, {
      fix: "lorafit reads NF4 in blocks of 64 with double quantisation; start from the unquantised checkpoint with --base nf4.",
    });
  }
  return wholeNf4(rows, width, {
    codes: placed(from.tensor(name), to).view([-1]),
    absmax: part("absmax"),
    nestedAbsmax: part("nested_absmax"),
    nestedMap: part("nested_quant_map"),
    offset: state.nested_offset,
  });
}

/** The small values that bitsandbytes keeps as JSON in a tensor of bytes. */
function readState(from: StoredTensors, name: string): Record<string, unknown> {
  const text = Buffer.from(from.tensor(`${name}.quant_state.bitsandbytes__nf4`).toBytes()).toString("utf8");
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new UserError(`${from.place}: the quantisation state of ${name} is not JSON.`, {
      fix: "Download the file again.",
      cause,
    });
  }
}

function nf4Tensors(matrix: Nf4Matrix, sourceDtype: string): Tensor[] {
  const { codes, absmax, nestedAbsmax, nestedMap, offset, width, rows } = matrix;
  const state = {
    quant_type: '"nf4"',
    blocksize: NF4_BLOCK,
    dtype: `"${sourceDtype}"`,
    shape: `[${rows.end}, ${width}]`,
    nested_blocksize: NESTED_BLOCK,
    nested_dtype: '"float32"',
    nested_offset: Number.isInteger(offset) ? offset.toFixed(1) : offset,
  };
  const fields = Object.entries(state).map(([key, value]) => `"${key}": ${value}`);
  const json = new TextEncoder().encode(`{${fields.join(", ")}}`); // spaced as Python's json is
  return [
    codes.view([-1, 1]),
    fromBytes(json, [json.length], "uint8"),
    absmax,
    fromArray(NF4_MAP, [NF4_MAP.length]),
    nestedAbsmax,
    nestedMap,
  ];
}

function placed(tensor: Tensor, { device, copy }: Target): Tensor {
  return tensor.to({ device, copy });
}

/** Scales of a weight are named beside it, not below it. */
function moduleOf(name: string): string {
  return name.replace(/\.weight$/, "");
}
