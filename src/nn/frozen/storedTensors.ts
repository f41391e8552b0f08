/**
 * Reads quantised matrices from a checkpoint, and makes the tensors that are written to one. Names and shapes
 * are in storedNames.ts.
 */
import { fromArray, fromBytes } from "../../torch/create.ts";
import type { DType } from "../../torch/dtypes.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { NF4_MAP, type Nf4Matrix } from "./nf4.ts";
import { placed, readNf4, type StoredTensors, type Target } from "./nf4Stored.ts";
import type { ChannelMatrix, QuantizedMatrix } from "./quantized.ts";
import { LAYOUTS, NESTED_BLOCK, NF4_BLOCK, type QuantizedPrecision } from "./storedNames.ts";

/** Reads a weight of [rows, columns] that is stored quantised. */
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

/**
 * Returns the tensors that store a whole matrix under a weight's name. sourceDtype: the weight's dtype before
 * it was quantised; recorded for readers that dequantise.
 */
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
  return [codes, scales, fromBytes(Uint8Array.of(0), [], "uint8")]; // 0: row-major
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
  const json = new TextEncoder().encode(`{${fields.join(", ")}}`); // spaces as Python's json writes them
  return [
    codes.view([-1, 1]),
    fromBytes(json, [json.length], "uint8"),
    absmax,
    fromArray(NF4_MAP, [NF4_MAP.length]),
    nestedAbsmax,
    nestedMap,
  ];
}
