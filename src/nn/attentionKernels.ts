/**
 * The attention kernels of libtorch by the device that computes. Each is called by name, so that a plan on meta makes the allocations of
 * the device that it plans for. Heads come packed by kv head, (T, G, Q+2, D): its Q query heads, its key, its value.
 */
import { empty, fromArray } from "../torch/create.ts";
import { CARD_ABILITIES, plannedCapability, planTarget } from "../torch/device.ts";
import type { Device, DType } from "../torch/dtypes.ts";
import {
  _scaledDotProductCudnnAttention as cudnn,
  _scaledDotProductCudnnAttentionBackward as cudnnBackward,
  _scaledDotProductEfficientAttention as efficient,
  _scaledDotProductEfficientAttentionBackward as efficientBackward,
  _flashAttentionForward as flash,
  _flashAttentionBackward as flashBackward,
  _scaledDotProductFlashAttentionForCpu as flashForCpu,
  _scaledDotProductFlashAttentionForCpuBackward as flashForCpuBackward,
} from "../torch/ops.gen.ts";
import { scope, type Tensor } from "../torch/tensor.ts";
import { causalProducts, causalProductsBackward } from "./attentionProducts.ts";
import { type Rows, rowsOf } from "./rows.ts";

/** Q query heads a kv head, D features a head; samples: the rows of each packed sample. */
export interface AttentionShape {
  Q: number;
  D: number;
  samples: readonly Rows[];
  /** On a card; by rule where none is named. */
  kernel?: CardKernel | undefined;
  /** The samples' lengths where they are at hand (packedLengths): else each call sends them to the card anew. */
  lengths?: Tensor | undefined;
}

/** The kernels that a card has, or some cards have; "products" are matrix products with softmax between. */
export const CARD_KERNELS = ["flash", "cudnn", "efficient", "products"] as const;
export type CardKernel = (typeof CARD_KERNELS)[number];

/** What one call of a kernel leaves to its backward: logsumexp first, where it has one, then what it needs beside. */
type Saved = readonly Tensor[];

/** out: (T, G, Q, D); saved: of each call. */
export interface KernelState {
  out: Tensor;
  saved: Saved[];
}

interface Heads {
  query: Tensor;
  key: Tensor;
  value: Tensor;
}

/** What one call takes of a (T, G, heads, D) tensor, as views; `heads` is the dimension of heads in it. */
interface Part {
  heads: 1 | 2;
  of(x: Tensor): Tensor;
  /** The other way round, for a part that is all of it. */
  whole(part: Tensor): Tensor;
}

/** One call for the packed samples of Lengths, or one for each sample. */
interface Call {
  part: Part;
  /** Rows of the samples in it; more than one only where a kernel takes several at once. */
  samples: readonly Rows[];
}

type Packing = Pick<AttentionShape, "samples" | "lengths">;

interface Kernel {
  calls(shape: AttentionShape, kvHeads: number): Call[];
  /** Whether query heads share key and value in the kernel; else each gets a view of them, and a gradient of its own. */
  sharesKeys: boolean;
  forward(heads: Heads, shape: Packing): readonly [out: Tensor, ...saved: Saved];
  backward(dOut: Tensor, heads: Heads, out: Tensor, saved: Saved, shape: Packing): Tensor[];
  /** Every position to every other. All (n, H, t, D). */
  full(query: Tensor, key: Tensor, value: Tensor): Tensor;
}

/** The kernels: on the CPU the first in float32 and the second in half precision, on cards the others and, as "products", the second. */
const KERNELS = {
  cpu: {
    calls: perSample,
    sharesKeys: false,
    forward: ({ query, key, value }) => flashForCpu(query, key, value, { isCausal: true }),
    backward: (dOut, { query, key, value }, out, [logsumexp]) =>
      flashForCpuBackward(dOut, query, key, value, out, logsumexp!, 0, true),
    full: (query, key, value) => flashForCpu(query, key, value)[0],
  },
  cpuHalf: {
    calls: perSample,
    sharesKeys: true,
    forward: (heads) => [causalProducts(heads)],
    backward: (dOut, heads) => causalProductsBackward(dOut, heads),
    full: (query, key, value) => flashForCpu(query, key, value)[0],
  },
  flash: {
    calls: wholeOrPerHead,
    sharesKeys: true,
    forward: ({ query, key, value }, { samples, lengths: known }) => {
      const longest = longestOf(samples);
      const lengths = samples.length === 1 ? null : (known ?? cumulativeLengths(samples, query));
      const [out, logsumexp, rng, unused] = flash(
        query,
        key,
        value,
        lengths,
        lengths,
        longest,
        longest,
        0,
        true,
        false,
      );
      // Those at hand are the caller's own, and given up with nothing that is saved.
      return [out, logsumexp, rng, unused, ...(lengths && !known ? [lengths] : [])];
    },
    backward: (
      dOut,
      { query, key, value },
      out,
      [logsumexp, rng, unused, own],
      { samples, lengths: known },
    ) => {
      const lengths = own ?? (samples.length === 1 ? null : (known ?? null));
      const longest = longestOf(samples);
      return flashBackward(
        ...([dOut, query, key, value, out, logsumexp!, lengths, lengths, longest, longest] as const),
        ...([0, true, rng ?? null, unused ?? null] as const),
      );
    },
    full: (query, key, value) => {
      const [q, k, v] = [query, key, value].map((x) => x.transpose(1, 2)) as [Tensor, Tensor, Tensor];
      return flash(q, k, v, null, null, q.shape[1]!, k.shape[1]!, 0, false, false)[0].transpose(1, 2);
    },
  },
  efficient: {
    calls: perSample,
    sharesKeys: false,
    forward: ({ query, key, value }) => efficient(query, key, value, null, true, { isCausal: true }),
    backward: (dOut, { query, key, value }, out, [logsumexp, seed, offset]) => {
      const beside = [seed ?? null, offset ?? null] as const;
      const wanted = [true, true, true, false];
      const gradients = efficientBackward(
        ...([dOut, query, key, value, null, out, logsumexp!, ...beside, 0, wanted] as const),
        { isCausal: true },
      );
      return gradients.filter((gradient) => gradient !== null);
    },
    full: (query, key, value) => efficient(query, key, value, null, false)[0],
  },
  cudnn: {
    calls: perSample,
    sharesKeys: true,
    forward: ({ query, key, value }) => {
      const [out, logsumexp, , , , , seed, offset] = cudnn(query, key, value, null, true, { isCausal: true });
      return [out!, logsumexp!, seed!, offset!];
    },
    backward: (dOut, { query, key, value }, out, [logsumexp, seed, offset], { samples }) => {
      const tokens = longestOf(samples);
      const beside = [seed ?? null, offset ?? null, null, null, null] as const;
      return cudnnBackward(
        ...([dOut, query, key, value, out, logsumexp!, ...beside, tokens, tokens, 0, true] as const),
      );
    },
    full: (query, key, value) => cudnn(query, key, value, null, false)[0]!,
  },
} as const satisfies Record<string, Kernel>;

export type KernelName = keyof typeof KERNELS;

/** Causal attention within each sample. packed: (T, G, Q+2, D). */
export function kernelForward(packed: Tensor, shape: AttentionShape): KernelState {
  return scope(() => {
    const kernel: Kernel = KERNELS[kernelFor(packed, shape.kernel)];
    const [T, G] = packed.shape as [number, number];
    const calls = kernel.calls(shape, G);
    const results = calls.map(({ part, samples }) => {
      const [out, ...saved] = kernel.forward(headsOf(packed, part, shape, kernel), {
        samples,
        lengths: shape.lengths,
      });
      return { out, saved, part };
    });
    const saved = results.map((result) => result.saved);
    const [first] = results;
    if (results.length === 1 && first) return { out: first.part.whole(first.out), saved };
    const out = empty([T, G, shape.Q, shape.D], { dtype: packed.dtype, device: packed.device });
    for (const result of results) result.part.of(out).copy_(result.out);
    return { out, saved };
  });
}

/** packed, (T, G, Q+2, D), becomes its own gradient for the gradient dOut, (T, G, Q, D), of the output. */
export function kernelBackward_(
  packed: Tensor,
  dOut: Tensor,
  { out, saved }: KernelState,
  shape: AttentionShape,
): void {
  const kernel: Kernel = KERNELS[kernelFor(packed, shape.kernel)];
  kernel.calls(shape, packed.shape[1]!).forEach(({ part, samples }, index) => {
    scope(() => {
      const gradients = kernel.backward(
        part.of(dOut),
        headsOf(packed, part, shape, kernel),
        part.of(out),
        saved[index]!,
        { samples, lengths: shape.lengths },
      );
      const into = part.of(packed);
      let head = 0;
      for (const [gradient, heads] of gradients.map((x, place) => [x, place === 0 ? shape.Q : 1] as const)) {
        scope(() => {
          const shared = gradient.shape[part.heads] === heads;
          const own = shared ? gradient : gradient.sumDim([part.heads], { keepdim: true });
          into.narrow(part.heads, head, heads).copy_(own);
        });
        head += heads;
      }
    });
  });
}

/** Attention of every position to every other, as the vision tower has it. All (n, H, t, D). */
export function fullAttention(query: Tensor, key: Tensor, value: Tensor): Tensor {
  return KERNELS[kernelFor(query)].full(query, key, value);
}

/** The kernel that computes tensors of this dtype on this device; on meta, on the device that is planned for. */
export function kernelFor(
  { device, dtype }: { device: Device; dtype: DType },
  named?: CardKernel | undefined,
): KernelName {
  const half = isHalf(dtype);
  const target = device === "meta" ? planTarget().device : device;
  if (target === "cpu") return half ? "cpuHalf" : "cpu";
  if (named) return named === "products" ? "cpuHalf" : named;
  return ruleFor({
    dtype,
    hasFlash: device === "meta" ? shouldHaveFlash(plannedCapability()) : hasFlash(device),
  });
}

/** The kernel of a card that has not been timed: flash attention where it is to be had, which it is in half precision alone. */
function ruleFor({ dtype, hasFlash }: { dtype: DType; hasFlash: boolean }): "flash" | "efficient" {
  return isHalf(dtype) && hasFlash ? "flash" : "efficient";
}

/** The kernels that a card of this compute capability (as 80) ought to have for a dtype, that of the rule first. */
export function kernelsOf(capability: number, dtype: DType): CardKernel[] {
  const hasFlash = shouldHaveFlash(capability);
  const rule = ruleFor({ dtype, hasFlash });
  const others = CARD_KERNELS.filter((kernel) => {
    if (kernel === "flash" || kernel === "cudnn") return isHalf(dtype) && hasFlash;
    return kernel === "efficient" || isHalf(dtype);
  });
  return [rule, ...others.filter((kernel) => kernel !== rule)];
}

/**
 * Cumulative lengths of packed samples, (samples + 1) int32, as flash attention asks for them; undefined where there is one sample or
 * another kernel. Whoever calls for each group of heads and layer makes them once.
 */
export function packedLengths(
  { samples, kernel }: AttentionShape,
  target: { device: Device; dtype: DType },
): Tensor | undefined {
  return samples.length > 1 && kernelFor(target, kernel) === "flash"
    ? cumulativeLengths(samples, target)
    : undefined;
}

function shouldHaveFlash(capability: number): boolean {
  return capability >= CARD_ABILITIES["flash attention"];
}

function isHalf(dtype: DType): boolean {
  return dtype === "bfloat16" || dtype === "float16";
}

const knownFlash = new Map<Device, boolean>();

/** Whether a card has flash attention: libtorch is asked once, by a call on two tokens. */
function hasFlash(device: Device): boolean {
  let has = knownFlash.get(device);
  if (has === undefined) {
    has = scope(() => {
      const x = empty([1, 2, 1, 64], { dtype: "bfloat16", device });
      try {
        flash(x, x, x, null, null, 2, 2, 0, true, false);
        return true;
      } catch {
        return false;
      }
    });
    knownFlash.set(device, has);
  }
  return has;
}

/** kv heads are the batch: (G, heads, t, D) a sample. */
function perSample({ samples }: AttentionShape): Call[] {
  return samples.map((rows) => ({
    samples: [rows],
    part: {
      heads: 1,
      of: (x) => rowsOf(x, rows).permute([1, 2, 0, 3]),
      whole: (part) => part.permute([2, 0, 1, 3]),
    },
  }));
}

/** One sample: kv heads are the batch, (G, T, heads, D). Several: all of them at once, (T, heads, D) a kv head. */
function wholeOrPerHead({ samples }: AttentionShape, kvHeads: number): Call[] {
  const swapped = (x: Tensor): Tensor => x.permute([1, 0, 2, 3]);
  if (samples.length === 1) return [{ samples, part: { heads: 2, of: swapped, whole: swapped } }];
  return Array.from({ length: kvHeads }, (_, head) => ({
    samples,
    part: { heads: 1, of: (x) => x.select(1, head), whole: (part) => part.unsqueeze(1) },
  }));
}

function headsOf(packed: Tensor, { heads, of }: Part, { Q }: AttentionShape, { sharesKeys }: Kernel): Heads {
  const all = of(packed);
  const query = all.narrow(heads, 0, Q);
  const one = (head: number): Tensor => {
    const x = all.narrow(heads, head, 1);
    return sharesKeys ? x : x.expand(query.shape);
  };
  return { query, key: one(Q), value: one(Q + 1) };
}

function cumulativeLengths(samples: readonly Rows[], { device }: { device: Device }): Tensor {
  const ends = Int32Array.from([0, ...samples.map(({ end }) => end)]);
  return fromArray(ends, [ends.length], { device });
}

function longestOf(samples: readonly Rows[]): number {
  return Math.max(...samples.map(({ start, end }) => end - start));
}
