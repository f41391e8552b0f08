/**
 * Chooses how one of lorafit's own kernels runs: its CUDA source on a card, or its loop on the CPU. If the
 * device has neither for the dtype, a twin of ATen operators runs.
 */
import { messageOf } from "../../errors.ts";
import { planTarget } from "../device.ts";
import { type Device, type DType, dtypeCode, isCard } from "../dtypes.ts";
import { native } from "../native.ts";
import { scope, type Tensor } from "../tensor.ts";
import { countKernel } from "../trace.ts";
import {
  compileKernel,
  hasScalar,
  type KernelCode,
  type KernelInput,
  kernelArguments,
  launch,
  type Work,
} from "./nvrtc.ts";

/** Properties of every kernel. */
interface Described<Inputs extends readonly Tensor[], Options> {
  /** Name in the CUDA source, and in native/cpu_loops.cc. */
  entry: string;
  /** Returns the first input that has the kernel's scalar dtype. */
  scalars: (...inputs: Inputs) => Tensor;
  twin: (inputs: Inputs, options: Options) => void;
  /**
   * Indexes of inputs that the kernel reads in full. A plan computes the kernel's time from `reads` and
   * `writes`.
   */
  reads: readonly number[];
  /** Views of the parts that the kernel reads of other inputs. */
  readsOf?: (inputs: Inputs) => Tensor[];
  writes: readonly number[];
  /** Indexes of inputs whose rows, or groups of heads, may have gaps between them. */
  strided?: readonly number[];
  /**
   * Largest relative difference to the twin in float32, in the norm of a written tensor. Lower precisions add
   * their own rounding.
   */
  tolerance: number;
  /** Number of roundings on the way to a result; default: 1. */
  roundings?: number;
}

interface Kernel<Inputs extends readonly Tensor[], Options> extends Described<Inputs, Options> {
  source: KernelCode["source"];
  /**
   * Arguments of a launch. The CPU loop takes the same inputs; it runs over the first, so it needs no count.
   */
  work: (inputs: Inputs, options: Options) => Work;
  /** False if the CPU has no loop for this kernel. */
  onCpu?: false;
}

export interface CpuKernel<Inputs extends readonly Tensor[], Options> extends Described<Inputs, Options> {
  /** Whether the processor has a loop for these scalars; default: yes. */
  runs?: (dtype: DType) => boolean;
  /** Arguments of the loop, which runs over the first. */
  inputs: (inputs: Inputs, options: Options) => readonly KernelInput[];
}

type Call<Inputs, Options> = (inputs: Inputs, options: Options) => void;

/** A callable kernel, with its properties. */
export type Fused<Inputs extends readonly Tensor[], Options> = Kernel<Inputs, Options> &
  Call<Inputs, Options>;

/**
 * Whether lorafit's own kernels run on tensors like this one. If not, a caller may use its own sequence of
 * ATen operators.
 */
export function isFused({ device, dtype }: Pick<Tensor, "device" | "dtype">): boolean {
  return hasScalar(dtype) && (uncompilable === undefined || !isOnCard(device));
}

/** Why sources can't be compiled for the card in use; undefined if they can, or if nobody has tried. */
let uncompilable: string | undefined;

/**
 * Tries to compile a source for a card of this compute capability (for example 80 or 120). If it fails, twins
 * run from now on, on cards and in plans.
 */
export function tryCompiling(capability: number): void {
  try {
    compileKernel({ source: "swiglu", entry: "swiglu", dtype: "float32" }, capability);
    uncompilable = undefined;
  } catch (thrown) {
    uncompilable = messageOf(thrown);
  }
}

/**
 * Returns why twins run on the card in use, as tryCompiling found; undefined if lorafit's own kernels run.
 */
export function whyTwins(): string | undefined {
  return uncompilable;
}

/** Whether a device is a card, or stands for one in a plan. */
export function isOnCard(device: Device): boolean {
  return isCard(device) || (device === "meta" && planTarget().device === "cuda");
}

/** Makes a kernel with a CUDA source and, unless onCpu is false, a CPU loop. */
export function kernel<Inputs extends readonly Tensor[], Options>(
  known: Kernel<Inputs, Options>,
): Fused<Inputs, Options> {
  const { source, entry, onCpu = true, work } = known;
  const call = callOf(known, (device, dtype) => {
    if (!isOnCard(device)) return onCpu ? loopOf(entry, dtype, (...call) => work(...call).inputs) : undefined;
    return (...call) => launch(device, { source, entry, dtype, ...work(...call) });
  });
  return Object.assign(call, known);
}

/** Makes a kernel that exists on the CPU only. */
export function cpuKernel<Inputs extends readonly Tensor[], Options>(
  known: CpuKernel<Inputs, Options>,
): CpuKernel<Inputs, Options> & Call<Inputs, Options> {
  const call = callOf(known, (device, dtype) =>
    isOnCard(device) || known.runs?.(dtype) === false ? undefined : loopOf(known.entry, dtype, known.inputs),
  );
  return Object.assign(call, known);
}

function loopOf<Inputs, Options>(
  entry: string,
  dtype: DType,
  inputsOf: (inputs: Inputs, options: Options) => readonly KernelInput[],
): Call<Inputs, Options> {
  return (...call) => native.runLoop(entry, dtypeCode(dtype), ...kernelArguments(inputsOf(...call)));
}

/**
 * Runs the device's kernel for these scalars, or the twin if there is none. A plan only counts the kernel:
 * kernels allocate nothing.
 */
function callOf<Inputs extends readonly Tensor[], Options>(
  { entry, strided = [], scalars, reads, readsOf, writes, twin }: Described<Inputs, Options>,
  runOn: (device: Device, dtype: DType) => Call<Inputs, Options> | undefined,
): Call<Inputs, Options> {
  const readBy = (inputs: Inputs): Tensor[] => [...tensorsAt(inputs, reads), ...(readsOf?.(inputs) ?? [])];
  return (inputs, options) => {
    const odd = inputs.find((input, index) => !strided.includes(index) && !input.isContiguous);
    if (odd) throw new TypeError(`${entry}: inputs must be contiguous, and one is ${odd}`);
    const { device, dtype } = scalars(...inputs);
    const run = isFused({ device, dtype }) ? runOn(device, dtype) : undefined;
    if (!run) scope(() => twin(inputs, options));
    else if (device === "meta") scope(() => countKernel(entry, readBy(inputs), tensorsAt(inputs, writes)));
    else run(inputs, options);
  };
}

function tensorsAt(inputs: readonly Tensor[], indexes: readonly number[]): Tensor[] {
  return indexes.map((index) => inputs[index]!);
}
