/**
 * A part of the frozen base, such as a layer, of which every rank holds a share. The part's tensors lie one
 * after the other in a line of bytes, whatever their dtypes, and rank r holds the r-th of equal pieces. A
 * part whose data are elsewhere is an outline: tensors of the right shapes and dtypes over the share.
 */
import { empty } from "../../torch/create.ts";
import { pool } from "../../torch/device.ts";
import { type Device, type DType, dtypeBytes } from "../../torch/dtypes.ts";
import type { Peers } from "../../torch/peers/peers.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { mapTensors } from "../places.ts";

export interface Share {
  /** This rank's bytes, (wholeBytes / ranks) uint8. */
  own: Tensor;
  /** Bytes of the whole part. */
  wholeBytes: number;
  /** Where each tensor of the part begins, in the order of mapTensors. */
  offsets: readonly number[];
}

/** Shares are multiples of this; tensors begin at multiples of TENSOR_BYTES. */
const SHARE_BYTES = 512;
const TENSOR_BYTES = 256;

/** Elements that are copied at a time: a copy that converts them may need as much again. */
const PIECE = 2 ** 20;

/**
 * Returns this rank's share of a part, and the part's outline. load: returns a tensor's data for one of
 * `part`. It is called in order, for those tensors only of which this rank holds something, and may return
 * another dtype and device. Both results belong to the open scope.
 */
export function shareOf<T>(
  part: T,
  { rank, count }: Pick<Peers, "rank" | "count">,
  device: Device,
  load: (x: Tensor) => Tensor,
): { share: Share; outline: T } {
  const { offsets, bytes } = layoutOf(part);
  const ownBytes = Math.ceil(bytes / count / SHARE_BYTES) * SHARE_BYTES;
  const own = pool("device", () => scope(() => empty([ownBytes], { dtype: "uint8", device })));
  const share = { own, wholeBytes: ownBytes * count, offsets };
  if (device !== "meta") fill(part, share, rank * ownBytes, load);
  return { share, outline: mapTensors(part, ({ shape, dtype }) => outlineOf(own, shape, dtype)) };
}

/** Returns a part whose tensors are views of all its bytes, (wholeBytes) uint8. */
export function viewsOf<T>(outline: T, { offsets }: Share, whole: Tensor): T {
  let next = 0;
  return mapTensors(outline, ({ shape, dtype, bytes }) => {
    const at = offsets[next++]!;
    return scope(() => whole.narrow(0, at, bytes).viewDtype(dtype).view(shape));
  });
}

/** Returns a tensor of this shape that has no memory of its own, and no meaning. */
export function outlineOf(over: Tensor, shape: readonly number[], dtype: DType): Tensor {
  const strides = shape.map(() => 0);
  return scope(() => over.narrow(0, 0, dtypeBytes(dtype)).viewDtype(dtype).asStrided(shape, strides));
}

function layoutOf(part: unknown): { offsets: number[]; bytes: number } {
  const offsets: number[] = [];
  let bytes = 0;
  mapTensors(part, (x) => {
    offsets.push(bytes);
    bytes = Math.ceil((bytes + x.bytes) / TENSOR_BYTES) * TENSOR_BYTES;
    return x;
  });
  return { offsets, bytes };
}

/** Copies what this rank holds, the bytes from `start` on. */
function fill(part: unknown, { own, offsets }: Share, start: number, load: (x: Tensor) => Tensor): void {
  const end = start + own.numel;
  let next = 0;
  mapTensors(part, (x) => {
    const at = offsets[next++]!;
    const [from, to] = [Math.max(at, start), Math.min(at + x.bytes, end)];
    if (from < to) {
      scope(() => {
        const size = dtypeBytes(x.dtype);
        const source = load(x)
          .reshape([-1])
          .narrow(0, (from - at) / size, (to - from) / size);
        copyInPieces(own.narrow(0, from - start, to - from).viewDtype(x.dtype), source);
      });
    }
    return x;
  });
}

function copyInPieces(to: Tensor, from: Tensor): void {
  for (let start = 0; start < to.numel; start += PIECE) {
    const length = Math.min(PIECE, to.numel - start);
    scope(() => {
      to.narrow(0, start, length).copy_(from.narrow(0, start, length));
    });
  }
}
