/**
 * The attention kernels of libtorch for each device. Each kernel is called by name, so that a plan on meta
 * makes the allocations of the planned device. Heads are views of any tensor. Queries may belong to the last
 * rows only: those of the first sample from some row on, and all rows of the other samples.
 */
import { empty } from "../../torch/create.ts";
import { CARD_ABILITIES, plannedCapability, planTarget } from "../../torch/device.ts";
import type { Device, DType } from "../../torch/dtypes.ts";
import {
  _scaledDotProductCudnnAttention as cudnn,
  _scaledDotProductCudnnAttentionBackward as cudnnBackward,
  _efficientAttentionForward as efficient,
  _efficientAttentionBackward as efficientBackward,
  _flashAttentionForward as flash,
  _flashAttentionBackward as flashBackward,
  _scaledDotProductFlashAttentionForCpu as flashForCpu,
  _scaledDotProductFlashAttentionForCpuBackward as flashForCpuBackward,
} from "../../torch/ops.gen.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import {
  byQueryHeads,
  type Call,
  headsOf,
  lengthsOf,
  longestOf,
  type Packed,
  type PackedHeads,
  type PackedLengths,
  type Packing,
  perSample,
  perSampleRowsFirst,
  queryRows,
  wholeOrPerHead,
} from "./calls.ts";
import { CARD_KERNELS, type CardKernel } from "./cardKernels.ts";
import { causalProducts, causalProductsBackward } from "./cpuProducts.ts";

/** Q: query heads per kv head; D: features per head. */
export interface AttentionShape extends Packed {
  Q: number;
  D: number;
  /** Kernel on a card; "products" also on the CPU, in any dtype. If undefined, kernelFor's rule chooses. */
  kernel?: CardKernel | undefined;
  /** Query heads of a kv head that are computed at a time; divides Q. Few need less memory. Default: all. */
  queryHeads?: number | undefined;
}

/**
 * Tensors that one kernel call saves for its backward: logsumexp first if the kernel has one, then the
 * others.
 */
type Saved = readonly Tensor[];

/** out: (R, G, Q, D); saved: one list per call. */
export interface KernelState {
  out: Tensor;
  saved: Saved[];
}

interface Kernel {
  calls(shape: AttentionShape, kvHeads: number): Call[];
  /**
   * Whether query heads share key and value in the kernel. If false, each query head gets a view of them and
   * a gradient of its own.
   */
  sharesKeys: boolean;
  /** Whether there may be fewer queries than keys. The causal mask then ends at the bottom right. */
  takesLastRows: boolean;
  forward(heads: PackedHeads, shape: Packing): readonly [out: Tensor, ...saved: Saved];
  backward(dOut: Tensor, heads: PackedHeads, out: Tensor, saved: Saved, shape: Packing): Tensor[];
  /** Attends from every position to every other. All (n, H, t, D). */
  full(query: Tensor, key: Tensor, value: Tensor): Tensor;
  /** `full`, and the logarithm of the sum of each query's weights: (n, H, t, D) and (n, H, t). */
  fullWithSums(query: Tensor, key: Tensor, value: Tensor): [out: Tensor, sums: Tensor];
}

/**
 * The kernels by name. The CPU uses `cpu` in float32 and `cpuHalf` in half precision; cards use the others.
 * `cpuHalf` is "products" on every device.
 */
const KERNELS = {
  cpu: {
    calls: perSample,
    sharesKeys: false,
    takesLastRows: false, // its causal mask starts at the top left
    forward: ({ query, key, value }) => flashForCpu(query, key, value, { isCausal: true }),
    backward: (dOut, { query, key, value }, out, [logsumexp]) =>
      flashForCpuBackward(dOut, query, key, value, out, logsumexp!, 0, true),
    full: (query, key, value) => flashForCpu(query, key, value)[0],
    fullWithSums: (query, key, value) => flashForCpu(query, key, value),
  },
  cpuHalf: {
    calls: perSample,
    sharesKeys: true,
    takesLastRows: true,
    forward: (heads) => [causalProducts(heads)],
    backward: (dOut, heads) => causalProductsBackward(dOut, heads),
    full: (query, key, value) => flashForCpu(query, key, value)[0],
    fullWithSums: (query, key, value) => flashForCpu(query, key, value),
  },
  flash: {
    calls: wholeOrPerHead,
    sharesKeys: true,
    takesLastRows: true,
    forward: ({ query, key, value }, packing) => {
      const { samples, queries, lengths: known } = packing;
      const lengths = samples.length === 1 ? undefined : (known ?? lengthsOf(packing, query));
      const [out, logsumexp, rng, unused] = flash(
        ...([query, key, value, lengths?.queries ?? null, lengths?.keys ?? null] as const),
        ...([longestOf(queries), longestOf(samples), 0, true, false] as const),
      );
      // Known lengths belong to the caller and must not be freed with the saved tensors.
      return [
        out,
        logsumexp,
        rng,
        unused,
        ...(lengths && !known ? new Set([lengths.queries, lengths.keys]) : []),
      ];
    },
    backward: (
      dOut,
      { query, key, value },
      out,
      [logsumexp, rng, unused, ...own],
      { samples, queries, lengths: known },
    ) => {
      const ofKnown = samples.length === 1 ? undefined : known;
      const [ofQueries, ofKeys] = [own[0] ?? ofKnown?.queries ?? null, own.at(-1) ?? ofKnown?.keys ?? null];
      return flashBackward(
        ...([dOut, query, key, value, out, logsumexp!, ofQueries, ofKeys] as const),
        ...([longestOf(queries), longestOf(samples), 0, true, rng ?? null, unused ?? null] as const),
      );
    },
    full: (query, key, value) => {
      const [q, k, v] = [query, key, value].map((x) => x.transpose(1, 2)) as [Tensor, Tensor, Tensor];
      return flash(q, k, v, null, null, q.shape[1]!, k.shape[1]!, 0, false, false)[0].transpose(1, 2);
    },
    fullWithSums: (query, key, value) => {
      const [q, k, v] = [query, key, value].map((x) => x.transpose(1, 2)) as [Tensor, Tensor, Tensor];
      const [out, sums] = flash(q, k, v, null, null, q.shape[1]!, k.shape[1]!, 0, false, false);
      return [out.transpose(1, 2), sums];
    },
  },
  efficient: {
    calls: perSampleRowsFirst,
    sharesKeys: false,
    takesLastRows: true,
    forward: ({ query, key, value }) => {
      const [out, logsumexp, seed, offset] = efficient(
        ...([query, key, value, null, null, null, null, null, 0, CAUSAL_FROM_BOTTOM_RIGHT] as const),
        { computeLogSumexp: true },
      );
      return [out, logsumexp, seed, offset];
    },
    backward: (dOut, { query, key, value }, out, [logsumexp, seed, offset], { queries, samples }) => {
      const gradients = efficientBackward(
        ...([
          dOut,
          query,
          key,
          value,
          null,
          out,
          null,
          null,
          longestOf(queries),
          longestOf(samples),
        ] as const),
        ...([logsumexp!, 0, seed ?? null, offset ?? null, CAUSAL_FROM_BOTTOM_RIGHT, false] as const),
      );
      return gradients.filter((gradient) => gradient !== null).slice(0, 3);
    },
    full: (query, key, value) => {
      const [q, k, v] = [query, key, value].map((x) => x.transpose(1, 2)) as [Tensor, Tensor, Tensor];
      return efficient(q, k, v, null, null, null, null, null, 0, NO_MASK)[0].transpose(1, 2);
    },
    fullWithSums: (query, key, value) => {
      const [q, k, v] = [query, key, value].map((x) => x.transpose(1, 2)) as [Tensor, Tensor, Tensor];
      const sums = { computeLogSumexp: true };
      const [out, padded] = efficient(q, k, v, null, null, null, null, null, 0, NO_MASK, sums);
      return [out.transpose(1, 2), padded.narrow(2, 0, q.shape[1]!)]; // rows are padded to whole tiles
    },
  },
  cudnn: {
    calls: perSample,
    sharesKeys: true,
    takesLastRows: false, // libtorch asks cuDNN only for a mask that starts at the top left
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
    fullWithSums: (query, key, value) => {
      const [out, sums] = cudnn(query, key, value, null, true);
      return [out!, sums!.squeeze(3)];
    },
  },
} as const satisfies Record<string, Kernel>;

export type KernelName = keyof typeof KERNELS;

/** Custom masks of memory-efficient attention. Source: libtorch's native/transformers/sdp_utils_cpp.h. */
const NO_MASK = 0;
const CAUSAL_FROM_BOTTOM_RIGHT = 2;

/** Computes causal attention within each sample. */
export function kernelForward(heads: PackedHeads, shape: AttentionShape): KernelState {
  return scope(() => {
    const { query } = heads;
    const kernel = kernelOf(query, shape);
    const calls = callsOf(kernel, heads, shape).flat();
    const forward = (call: Call): readonly [out: Tensor, ...saved: Saved] =>
      kernel.forward(headsOf(heads, call, kernel), call.packing);
    const [only, ...others] = calls;
    if (only && others.length === 0) {
      const [out, ...saved] = forward(only);
      return { out: only.whole(out), saved: [saved] };
    }
    const out = empty(query.shape, { dtype: query.dtype, device: query.device });
    const saved = calls.map((call) =>
      scope(() => {
        const [part, ...saved] = forward(call);
        call.ofQueries(out).copy_(part);
        return saved;
      }),
    );
    return { out, saved };
  });
}

/**
 * Overwrites queries, keys and values with their gradients, for the gradient dOut, (R, G, Q, D), of the
 * output.
 */
export function kernelBackward_(
  heads: PackedHeads,
  dOut: Tensor,
  { out, saved }: KernelState,
  shape: AttentionShape,
): void {
  const kernel = kernelOf(heads.query, shape);
  const left = [...saved];
  for (const calls of callsOf(kernel, heads, shape))
    scope(() => {
      const places = [heads.key, heads.value].map((x) => calls[0]!.ofKeys(x));
      // every call reads the keys and values, so their gradients are added up beside them
      const sums = calls.length > 1 ? places.map((place) => place.zerosLike()) : undefined;
      for (const call of calls)
        scope(() => {
          const given = headsOf(heads, call, kernel);
          const [dOutPart, outPart] = [call.ofQueries(dOut), call.ofQueries(out)];
          const [dQuery, ...others] = kernel.backward(dOutPart, given, outPart, left.shift()!, call.packing);
          call.ofQueries(heads.query).copy_(dQuery!);
          others.forEach((gradient, index) => {
            scope(() => {
              const place = places[index]!;
              const shared = gradient.shape[call.heads] === place.shape[call.heads];
              const own = shared ? gradient : gradient.sumDim([call.heads], { keepdim: true });
              if (sums) sums[index]!.add_(own);
              else place.copy_(own);
            });
          });
        });
      sums?.forEach((sum, index) => void places[index]!.copy_(sum));
    });
}

/** Returns the calls of a kernel: those for the same keys in one list, each for some of their query heads. */
function callsOf(kernel: Kernel, { query }: PackedHeads, shape: AttentionShape): Call[][] {
  const [, kvHeads, Q] = query.shape as [number, number, number];
  return kernel.calls(shape, kvHeads).map((call) => byQueryHeads(call, Q, shape.queryHeads));
}

/** Returns whether queries may belong to a sample's last rows only. */
export function takesLastRows(target: { device: Device; dtype: DType }, named?: CardKernel): boolean {
  return KERNELS[kernelFor(target, named)].takesLastRows;
}

function kernelOf(query: Tensor, { kernel, firstQuery = 0 }: AttentionShape): Kernel {
  const name = kernelFor(query, kernel);
  if (firstQuery > 0 && !KERNELS[name].takesLastRows)
    throw new Error(`${name} takes no queries of the last rows alone`);
  return KERNELS[name];
}

/** Computes attention from every position to every other, for the vision tower. All (n, H, t, D). */
export function fullAttention(query: Tensor, key: Tensor, value: Tensor): Tensor {
  return KERNELS[kernelFor(query)].full(query, key, value);
}

/**
 * Computes attention from every position to every other, with the logarithm of the sum of each query's
 * weights. Results over several parts of the keys are merged by these sums. All (n, H, t, D); sums: (n, H, t)
 * in float32.
 */
export function attentionWithSums(query: Tensor, key: Tensor, value: Tensor): [out: Tensor, sums: Tensor] {
  return KERNELS[kernelFor(query)].fullWithSums(query, key, value);
}

/** Returns the kernel for tensors of this dtype on this device; on meta, for the planned device. */
export function kernelFor(
  { device, dtype }: { device: Device; dtype: DType },
  named?: CardKernel | undefined,
): KernelName {
  const half = isHalf(dtype);
  const target = device === "meta" ? planTarget().device : device;
  if (target === "cpu") return half || named === "products" ? "cpuHalf" : "cpu";
  if (named) return named === "products" ? "cpuHalf" : named;
  return ruleFor({
    dtype,
    hasFlash: device === "meta" ? shouldHaveFlash(plannedCapability()) : hasFlash(device),
  });
}

/**
 * Returns the kernel for a card that has not been timed: flash attention if the card has it, in half
 * precision only.
 */
function ruleFor({ dtype, hasFlash }: { dtype: DType; hasFlash: boolean }): "flash" | "efficient" {
  return isHalf(dtype) && hasFlash ? "flash" : "efficient";
}

/**
 * Returns the kernels that a card of this compute capability (such as 80) should have for a dtype. The kernel
 * that the rule chooses comes first.
 */
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
 * Returns cumulative lengths of packed samples for flash attention; undefined for one sample or another
 * kernel. A caller that runs many head groups and layers makes them once.
 */
export function packedLengths(
  shape: AttentionShape,
  target: { device: Device; dtype: DType },
): PackedLengths | undefined {
  const { samples, kernel } = shape;
  const isAsked = samples.length > 1 && kernelFor(target, kernel) === "flash";
  return isAsked ? lengthsOf({ samples, queries: queryRows(shape) }, target) : undefined;
}

function shouldHaveFlash(capability: number): boolean {
  return capability >= CARD_ABILITIES["flash attention"];
}

function isHalf(dtype: DType): boolean {
  return dtype === "bfloat16" || dtype === "float16";
}

const knownFlash = new Map<Device, boolean>();

/** Returns whether a card has flash attention. Tries it once, by a call on two tokens. */
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
