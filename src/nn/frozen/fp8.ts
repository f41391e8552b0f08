/**
 * Products in fp8, on cards that multiply fp8. One kernel converts activations to fp8 with a scale per row.
 * If the card's product accepts scales of rows and columns, it writes the final result. Otherwise the product
 * multiplies codes with one common scale, and the scales of rows and channels are applied afterwards.
 */
import { empty } from "../../torch/create.ts";
import { CARD_ABILITIES, cardInfo, plannedCapability } from "../../torch/device.ts";
import { type Device, isCard } from "../../torch/dtypes.ts";
import { fused } from "../../torch/kernels/kernels.ts";
import { _scaledMmOut } from "../../torch/ops.gen.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { columnsOf, forEachTileOf, rowCount, rowsOf } from "../rows.ts";
import type { ChannelMatrix } from "./quantized.ts";

/** Columns computed at once if a temporary has their size: it stays small beside the whole result. */
const TILE = 1024;

/** Rows in fp8: codes (T, n), and one scale per row, (T, 1). */
interface Fp8Rows {
  codes: Tensor;
  scales: Tensor;
}

/**
 * Major compute capabilities of cards whose `_scaled_mm` accepts scales of rows and columns in libtorch 2.11.
 * On Hopper cuBLASLt does it, and rows of the result may have any stride. On other cards CUTLASS does it with
 * memory of its own, which no plan counts.
 */
const TAKES_SCALES: ReadonlySet<number> = new Set([9]);

/**
 * Returns whether products with a matrix run in fp8: the card can, and rows are multiples of 16 bytes as it
 * needs.
 */
export function multipliesFp8({ codes }: ChannelMatrix, x: Tensor): boolean {
  const fits = x.dtype === "bfloat16" && codes.shape.every((extent) => extent % 16 === 0);
  return fits && capabilityOf(x.device) >= CARD_ABILITIES.fp8;
}

/** Computes into = beta into + x W^T. x: (T, in), W: (out, in), into: (T, out). */
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

/**
 * Computes into = beta into + dy W. W's scales are applied to dy, because the sum runs over them. dy: (T,
 * out), into: (T, in).
 */
export function fp8Gradient_(into: Tensor, dy: Tensor, { codes, scales }: ChannelMatrix, beta: 0 | 1): void {
  scope(() => {
    const rows = rowsInFp8(dy, scales);
    const ones = takesScales(dy.device) ? empty([TILE], { device: dy.device }).fill_(1) : undefined;
    forEachTileOf(codes.shape[1]!, TILE, (tile) => {
      scope(() => {
        const bytes = columnsOf(codes.viewDtype("uint8"), tile);
        const turned = empty([rowCount(tile), codes.shape[0]!], { dtype: "uint8", device: dy.device });
        fused.turnedBytes([turned, bytes], undefined);
        const columns = turned.viewDtype("float8_e4m3fn").t(); // (out, tile), column-major, as the card needs it
        product_(columnsOf(into, tile), rows, columns, ones?.narrow(0, 0, rowCount(tile)), beta);
      });
    });
  });
}

/** Returns x in fp8; with `factors`, multiplies the columns of x by them first. */
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
 * Computes into = beta into + rows matrix, with the product's columns multiplied by `factors`. Only a product
 * that accepts no scales may omit them. matrix: (n, m) codes, column-major; factors: (m); into: (T, m).
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

/** Returns whether a product is written directly into `into`, without a temporary. */
function writesInto(into: Tensor, beta: 0 | 1): boolean {
  return beta === 0 && into.strides[1] === 1 && takesScales(into.device);
}

function takesScales(device: Device): boolean {
  return TAKES_SCALES.has(Math.floor(capabilityOf(device) / 10));
}

const capabilities = new Map<Device, number>();

/** Returns the compute capability, such as 89; 0 if the device is no card. */
function capabilityOf(device: Device): number {
  if (device === "meta") return plannedCapability();
  if (!isCard(device)) return 0;
  const known = capabilities.get(device) ?? cardInfo(device).capability;
  capabilities.set(device, known);
  return known;
}
