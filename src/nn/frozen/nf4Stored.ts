/**
 * NF4 read from a checkpoint in the forms that bitsandbytes writes, and brought into the one that is computed with: blocks of 64 whose
 * absmax are quantised, too. Codes stay as they are, since a longer block is some of 64 with one absmax. Nor do quantised absmax change;
 * absmax in full are rounded to 8 bits.
 */
import { UserError } from "../../errors.ts";
import type { Device } from "../../torch/dtypes.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { NF4_MAP, type Nf4Matrix, quantizeAbsmax, wholeNf4 } from "./nf4.ts";
import { NESTED_BLOCK, NF4_BLOCK, storedNf4 } from "./storedNames.ts";

/** Access to the tensors of a checkpoint. */
export interface StoredTensors {
  readonly place: string;
  has(name: string): boolean;
  entry(name: string): { shape: readonly number[]; bytes: number };
  tensor(name: string): Tensor;
}

/** Where stored tensors are wanted: in memory of their own there, or in the mapped file where it will do. */
export interface Target {
  device: Device;
  copy: boolean;
}

/** A weight of this shape. Throws UserError where it is in none of the forms. */
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

/** A stored tensor where it is wanted. */
export function placed(tensor: Tensor, { device, copy }: Target): Tensor {
  return tensor.to({ device, copy });
}

/** Each of the numbers so many times, of which the first `count`. */
function repeated(numbers: Tensor, times: number, count: number, to: Target): Tensor {
  if (times === 1) return placed(numbers, to);
  return scope(() => placed(numbers.repeatInterleave(times).narrow(0, 0, count), { ...to, copy: true }));
}

function unread(name: string, { place }: StoredTensors): UserError {
  return new UserError(`${place}: ${name} is quantised in a way that lorafit does not read.`, {
    fix: "lorafit reads NF4 in blocks of 64 to 4096 as bitsandbytes writes it; start from the unquantised checkpoint with --base nf4.",
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
