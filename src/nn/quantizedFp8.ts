/**
 * Products in fp8 itself, on cards that multiply it: activations come in fp8 with a scale for each row, made as they come. The product is
 * of the codes alone, in the form that every device has (one scale for all); the scales of rows and channels follow.
 */
import { empty } from "../torch/create.ts";
import { CARD_ABILITIES, cardInfo, plannedCapability } from "../torch/device.ts";
import type { Device } from "../torch/dtypes.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { ChannelMatrix } from "./quantized.ts";
import { forEachTileOf, rowCount, rowsOf } from "./rows.ts";

/** The largest number of e4m3. */
const MOST = 448;
/** Columns of a product at a time: what is temporary stays small beside all of them. */
const TILE = 1024;
/** Numbers of activations made fp8 at a time. */
const PIECE = 2 ** 22;

/** Whether products with a matrix run in fp8: the card can, and rows lie as it needs them (multiples of 16 bytes). */
export function multipliesFp8({ codes }: ChannelMatrix, x: Tensor): boolean {
  const fits = x.dtype === "bfloat16" && codes.shape.every((extent) => extent % 16 === 0);
  return fits && capabilityOf(x.device) >= CARD_ABILITIES.fp8;
}

/** into = beta into + x W^T. x: (T, in), W: (out, in), into: (T, out). */
export function fp8Product_(into: Tensor, x: Tensor, { codes, scales }: ChannelMatrix, beta: 0 | 1): void {
  scope(() => {
    const rows = scaledRows(x);
    forEachTileOf(codes.shape[0]!, TILE, (tile) => {
      scope(() => {
        const y = multiply(rows.codes, rowsOf(codes, tile).t(), x)
          .mul_(rows.scales)
          .mul_(rowsOf(scales, tile));
        put(into.narrow(1, tile.start, rowCount(tile)), y, beta);
      });
    });
  });
}

/** into = beta into + dy W; W's scales go to dy, as the sum is over them. dy: (T, out), into: (T, in). */
export function fp8Gradient_(into: Tensor, dy: Tensor, { codes, scales }: ChannelMatrix, beta: 0 | 1): void {
  scope(() => {
    const rows = scaledRows(dy, scales);
    forEachTileOf(codes.shape[1]!, TILE, (tile) => {
      scope(() => {
        const bytes = codes.viewDtype("uint8").narrow(1, tile.start, rowCount(tile));
        const columns = bytes.t().contiguous().viewDtype("float8_e4m3fn").t(); // (out, tile), by columns as the card needs it
        put(
          into.narrow(1, tile.start, rowCount(tile)),
          multiply(rows.codes, columns, dy).mul_(rows.scales),
          beta,
        );
      });
    });
  });
}

/** x, its columns times `factors`, as fp8 codes (T, n) and a scale (T, 1) a row. */
function scaledRows(x: Tensor, factors?: Tensor): { codes: Tensor; scales: Tensor } {
  return scope(() => {
    const { device } = x;
    const codes = empty(x.shape, { dtype: "float8_e4m3fn", device });
    const scales = empty([x.shape[0]!, 1], { device });
    const tileRows = Math.max(1, Math.floor(PIECE / x.shape[1]!));
    forEachTileOf(x.shape[0]!, tileRows, (tile) => {
      scope(() => {
        const rows = rowsOf(x, tile);
        const wide = factors ? rows.mul(factors) : rows.to({ dtype: "float32" }); // (t, n) float32
        const most = wide
          .abs()
          .amax({ dim: [1], keepdim: true })
          .clampMin_(SMALLEST); // (t, 1)
        rowsOf(scales, tile).copy_(most).div_(MOST);
        const scaled = wide.mul(most.reciprocal().mul_(MOST)).clamp_({ min: -MOST, max: MOST });
        rowsOf(codes, tile).copy_(scaled);
      });
    });
    return { codes, scales };
  });
}

/** Stands for the largest number of a row of zeros. */
const SMALLEST = 1e-30;

function multiply(a: Tensor, b: Tensor, { dtype, device }: Tensor): Tensor {
  const one = empty([1], { device }).fill_(1);
  return a._scaledMm(b, one, one, { outDtype: dtype });
}

function put(into: Tensor, values: Tensor, beta: 0 | 1): void {
  if (beta === 0) into.copy_(values);
  else into.add_(values);
}

const capabilities = new Map<Device, number>();

/** Compute capability, as 89; 0 of what is no card. */
function capabilityOf(device: Device): number {
  if (device === "meta") return plannedCapability();
  if (!device.startsWith("cuda")) return 0;
  const known = capabilities.get(device) ?? cardInfo(device as `cuda:${number}`).capability;
  capabilities.set(device, known);
  return known;
}
