/**
 * Reads NF4 in the forms that bitsandbytes writes, and converts it to the computed form: blocks of 64 whose
 * absmax are quantised, too. Codes stay as they are: a longer block becomes several of 64 with one absmax.
 * Quantised absmax do not change; absmax in full are rounded to 8 bits.
 */
import { UserError } from "../../errors.ts";
import type { Device } from "../../torch/dtypes.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { NF4_MAP, type Nf4Matrix, quantizeAbsmax, wholeNf4 } from "./nf4.ts";
import { NESTED_BLOCK, NF4_BLOCK, storedNf4 } from "./storedNames.ts";

/** The parts of a checkpoint that reading needs. */
export interface StoredTensors {
  readonly place: string;
  has(name: string): boolean;
  entry(name: string): { shape: readonly number[]; bytes: number };
  tensor(name: string): Tensor;
}

/** Where stored tensors go. copy: into memory of their own; otherwise the mapped file serves if it can. */
export interface Target {
  device: Device;
  copy: boolean;
}

/** Reads a weight of this shape. Throws UserError if its form is unknown. */
export function readNf4(
  name: string,
  shape: readonly [number, number],
  from: StoredTensors,
  to: Target,
): Nf4Matrix {
  const [rows, width] = shape;
  const { block, nested } = storedNf4(name, shape, from);
  const state = readState(from, name);
  const map = from.tensor(`${name}.quant_map`).toFloat32Array();
  const isKnown =
    state.quant_type === "nf4" &&
    state.blocksize === block &&
    map.length === NF4_MAP.length &&
    map.every((value, at) => value === NF4_MAP[at]);
  if (!isKnown || block === undefined) throw unread(name, from);
  const codes = placed(from.tensor(name), to).view([-1]).viewDtype("uint8");
  const blocks = Math.ceil((rows * width) / NF4_BLOCK);
  const split = (suffix: string, count: number): Tensor =>
    repeated(from.tensor(`${name}.${suffix}`), block / NF4_BLOCK, count, to);
  if (!nested) return wholeNf4(rows, width, { codes, ...quantizeAbsmax(split("absmax", blocks)) });
  if (state.nested_blocksize !== NESTED_BLOCK || typeof state.nested_offset !== "number")
    throw unread(name, from);
  return wholeNf4(rows, width, {
    codes,
    absmax: split("absmax", blocks),
    nestedAbsmax: split("nested_absmax", Math.ceil(blocks / NESTED_BLOCK)),
    nestedMap: placed(from.tensor(`${name}.nested_quant_map`), to),
    offset: state.nested_offset,
  });
}

/** Moves a stored tensor to its target. */
export function placed(tensor: Tensor, { device, copy }: Target): Tensor {
  return tensor.to({ device, copy });
}

/** Repeats each number `times` times, and returns the first `count`. */
function repeated(numbers: Tensor, times: number, count: number, to: Target): Tensor {
  if (times === 1) return placed(numbers, to);
  return scope(() => placed(numbers.repeatInterleave(times).narrow(0, 0, count), { ...to, copy: true }));
}

function unread(name: string, { place }: StoredTensors): UserError {
  return new UserError(`${place}: ${name} is quantised in a way that lorafit does not read.`, {
    fix: "lorafit reads NF4 in blocks of 64 to 4096 as bitsandbytes writes it; start from the unquantised checkpoint with --base nf4.",
  });
}

/** Reads the small values that bitsandbytes keeps as JSON in a tensor of bytes. */
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
