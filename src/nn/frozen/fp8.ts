/**
 * Products in fp8 itself, on cards that multiply it: activations come in fp8 with a scale for each row, made as they come by one kernel.
 * Where the card's product takes scales of rows and of columns, it writes the result whole; elsewhere it is of the codes alone, with one
 * scale for all, and the scales of rows and channels follow.
 */
import { empty } from "../../torch/create.ts";
import { CARD_ABILITIES, cardInfo, plannedCapability } from "../../torch/device.ts";
import { type Device, isCard } from "../../torch/dtypes.ts";
import { fused } from "../../torch/kernels/kernels.ts";
import { _scaledMmOut } from "../../torch/ops.gen.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { columnsOf, forEachTileOf, rowCount, rowsOf } from "../rows.ts";
import type { ChannelMatrix } from "./quantized.ts";

/** Columns of a product at a time, where something beside the result is of their size: it stays small beside all of them. */
const TILE = 1024;

/** Rows in fp8: codes (T, n), and a scale (T, 1) each. */
interface Fp8Rows {
  codes: Tensor;
  scales: Tensor;
}

/**
 * Cards, by the whole part of their compute capability, whose `_scaled_mm` takes scales of rows and columns in libtorch 2.11: on Hopper
 * cuBLASLt has it, into a result whose rows may lie apart. On the others CUTLASS does, with memory of its own, which no plan knows.
 */
const TAKES_SCALES: ReadonlySet<number> = new Set([9]);

/** Whether products with a matrix run in fp8: the card can, and rows lie as it needs them (multiples of 16 bytes). */
export function multipliesFp8({ codes }: ChannelMatrix, x: Tensor): boolean {
  const fits = x.dtype === "bfloat16" && codes.shape.every((extent) => extent % 16 === 0);
  return fits && capabilityOf(x.device) >= CARD_ABILITIES.fp8;
}

/** into = beta into + x W^T. x: (T, in), W: (out, in), into: (T, out). */
export function fp8Product_(into: Tensor, x: Tensor, { codes, scales }: ChannelMatrix, beta: 0 | 1): void {
  const outs = codes.shape[0]!;
  scope(() => {
    const rows = rowsInFp8(x);
    const tileColumns = writesInto(into, beta) ? outs : TILE;
    forEachTileOf(outs, tileColumns, (tile) => {
      scope(() => product_(columnsOf(into, tile), rows, rowsOf(codes, tile).t(), rowsOf(scales, tile), beta));
    });
  });
}

/** into = beta into + dy W; W's scales go to dy, as the sum is over them. dy: (T, out), into: (T, in). */
export function fp8Gradient_(into: Tensor, dy: Tensor, { codes, scales }: ChannelMatrix, beta: 0 | 1): void {
  scope(() => {
    const rows = rowsInFp8(dy, scales);
    const ones = takesScales(dy.device) ? empty([TILE], { device: dy.device }).fill_(1) : undefined;
    forEachTileOf(codes.shape[1]!, TILE, (tile) => {
      scope(() => {
        const bytes = columnsOf(codes.viewDtype("uint8"), tile);
        const turned = empty([rowCount(tile), codes.shape[0]!], { dtype: "uint8", device: dy.device });
        fused.turnedBytes([turned, bytes], undefined);
        const columns = turned.viewDtype("float8_e4m3fn").t(); // (out, tile), by columns as the card needs it
        product_(columnsOf(into, tile), rows, columns, ones?.narrow(0, 0, rowCount(tile)), beta);
      });
    });
  });
}

/** x, its columns times `factors`, in fp8. */
function rowsInFp8(x: Tensor, factors?: Tensor): Fp8Rows {
  return scope(() => {
    const { device } = x;
    const codes = empty(x.shape, { dtype: "float8_e4m3fn", device });
    const scales = empty([x.shape[0]!, 1], { device });
    const near = x.strides[1] === 1 ? x : x.contiguous();
    if (factors) fused.multipliedRowsFp8([codes, scales, near, factors], undefined);
    else fused.rowsFp8([codes, scales, near], undefined);
    return { codes, scales };
  });
}

/**
 * into = beta into + rows matrix, its columns times `factors`, which only a product that takes no scales goes without. matrix: (n, m)
 * codes, by columns; factors: (m); into: (T, m).
 */
function product_(
  into: Tensor,
  { codes, scales }: Fp8Rows,
  matrix: Tensor,
  factors: Tensor | undefined,
  beta: 0 | 1,
): void {
  const { dtype: outDtype, device } = into;
  const inside = takesScales(device) ? factors?.view([1, -1]) : undefined;
  if (inside && writesInto(into, beta)) {
    _scaledMmOut(codes, matrix, scales, inside, { outDtype, out: into });
    return;
  }
  const one = inside ? undefined : empty([1], { device }).fill_(1);
  const y = codes._scaledMm(matrix, inside ? scales : one!, inside ?? one!, { outDtype });
  if (!inside) y.mul_(scales);
  if (!inside && factors) y.mul_(factors);
  if (beta === 0) into.copy_(y);
  else into.add_(y);
}

/** Whether a product is written where it belongs, without a tensor beside. */
function writesInto(into: Tensor, beta: 0 | 1): boolean {
  return beta === 0 && into.strides[1] === 1 && takesScales(into.device);
}

function takesScales(device: Device): boolean {
  return TAKES_SCALES.has(Math.floor(capabilityOf(device) / 10));
}

const capabilities = new Map<Device, number>();

/** Compute capability, as 89; 0 of what is no card. */
function capabilityOf(device: Device): number {
  if (device === "meta") return plannedCapability();
  if (!isCard(device)) return 0;
  const known = capabilities.get(device) ?? cardInfo(device).capability;
  capabilities.set(device, known);
  return known;
}
