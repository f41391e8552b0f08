/** What this machine's CPU reaches, measured on the products and copies that a step is made of; once for a machine. */
import { cpus } from "node:os";
import { ones } from "../torch/create.ts";
import { getThreads, libtorchVersion } from "../torch/device.ts";
import { _scaledDotProductFlashAttentionForCpu as flashForCpu } from "../torch/ops.gen.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import type { Speed } from "./cost.ts";
import { remembered } from "./measurements.ts";

type Compute = "float32" | "bfloat16" | "float16";

/** Each measurement goes on for so long, of which the best counts: other programs only ever take time away. */
const MEASURE_MS = 500;

/** The speed of the CPU for a dtype, from the last time that it was measured here. */
export function calibratedSpeed(dtype: Compute): Speed {
  const key = [cpus()[0]?.model, getThreads(), libtorchVersion(), dtype].join(" ");
  return remembered("calibration.json", key, () => measureSpeed(dtype)).value;
}

/** Measures: products of a tile's size, attention over a thousand positions, an elementwise sum, and one of next to nothing. */
export function measureSpeed(dtype: Compute, measureMs = MEASURE_MS): Speed {
  return scope(() => {
    const [rows, width] = [512, 1024];
    const a = ones([rows, width], { dtype });
    const b = ones([width, width], { dtype });
    const matmulMs = bestMs(() => a.mm(b), measureMs);
    const matmulRate = (2 * rows * width * width) / (matmulMs / 1e3);
    const [heads, tokens, features] = [4, 1024, 64];
    const query = ones([1, heads, tokens, features], { dtype });
    const attentionMs = bestMs(() => flashForCpu(query, query, query, { isCausal: true })[0], measureMs);
    const attentionRate = (2 * 2 * features * heads * tokens * tokens) / 2 / (attentionMs / 1e3);
    const large = ones([4 * 2 ** 20], { dtype: "float32" });
    const sumMs = bestMs(() => large.add_(1), measureMs);
    const small = ones([1]);
    return {
      flopsPerSecond: { float32: matmulRate, [dtype]: matmulRate },
      attentionRatio: attentionRate / matmulRate,
      memoryBytesPerSecond: (2 * large.bytes) / (sumMs / 1e3),
      linkBytesPerSecond: (2 * large.bytes) / (sumMs / 1e3),
      launchMs: bestMs(() => small.add_(1), measureMs),
    };
  });
}

function bestMs(call: () => Tensor, measureMs: number): number {
  let best = Number.POSITIVE_INFINITY;
  const endMs = performance.now() + measureMs;
  do {
    const startMs = performance.now();
    scope(() => void call());
    best = Math.min(best, performance.now() - startMs);
  } while (performance.now() < endMs);
  return best;
}
