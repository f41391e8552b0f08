/** Quantised matrices read from a checkpoint and as the tensors that are written to one; names and shapes are quantizedNames.ts. */
import { UserError } from "../errors.ts";
import { fromArray, fromBytes } from "../torch/create.ts";
import type { Device, DType } from "../torch/dtypes.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { ChannelMatrix, QuantizedMatrix } from "./quantized.ts";
import { LAYOUTS, NESTED_BLOCK, NF4_BLOCK, type QuantizedPrecision } from "./quantizedNames.ts";
import { NF4_MAP, type Nf4Matrix, wholeNf4 } from "./quantizedNf4.ts";

/** What is asked of a checkpoint. */
export interface StoredTensors {
  readonly place: string;
  tensor(name: string): Tensor;
}

/** Where stored tensors are wanted: in memory of their own there, or in the mapped file where it will do. */
export interface Target {
  device: Device;
  copy: boolean;
}

/** A weight of [rows, columns] that is stored quantised. */
export function readQuantized(
  name: string,
  shape: readonly [number, number],
  precision: QuantizedPrecision,
  from: StoredTensors,
  to: Target,
): QuantizedMatrix {
  return scope(() => {
    if (precision === "nf4") return readNf4(name, shape, from, to);
    const [codes, scales] = LAYOUTS[precision].names(name).map((part) => from.tensor(part));
    return { precision, codes: placed(codes!, to), scales: placed(scales!, to).view([-1]) };
  });
}

/** A whole matrix as the tensors that stand for a weight of this name; its dtype before is told to who dequantises. */
export function quantizedTensors(
  name: string,
  matrix: QuantizedMatrix,
  sourceDtype: DType,
): (readonly [string, Tensor])[] {
  const tensors = matrix.precision === "nf4" ? nf4Tensors(matrix, sourceDtype) : channelTensors(matrix);
  return LAYOUTS[matrix.precision].names(name).map((part, at) => [part, tensors[at]!] as const);
}

function channelTensors({ precision, codes, scales }: ChannelMatrix): Tensor[] {
  if (precision === "fp8") return [codes, scales.unsqueeze(1)];
  return [codes, scales, fromBytes(Uint8Array.of(0), [], "uint8")]; // 0: by rows
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

function nf4Tensors(matrix: Nf4Matrix, sourceDtype: DType): Tensor[] {
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
