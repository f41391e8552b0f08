/** How a kernel of our own runs: its CUDA source on a card, its loop on the CPU, a twin of ATen operators for dtypes that they don't know. */
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

/** Facts that every kernel states. */
interface Described<Inputs extends readonly Tensor[], Options> {
  /** Its name in the CUDA source, and in native/cpu_loops.cc. */
  entry: string;
  /** The first of the inputs that has the kernel's scalars. */
  scalars: (...inputs: Inputs) => Tensor;
  twin: (inputs: Inputs, options: Options) => void;
  /** Indexes of inputs that it reads and writes in full, for a plan's time. */
  reads: readonly number[];
  /** Views of the parts that it reads of other inputs. */
  readsOf?: (inputs: Inputs) => Tensor[];
  writes: readonly number[];
  /** Indexes of inputs whose rows, or groups of heads, may lie apart. */
  strided?: readonly number[];
  /** Relative difference (of the norm of what is written) to the twin in float32; lower precisions add their own rounding. */
  tolerance: number;
  /** How often a number is rounded on its way to the result; once unless said. */
  roundings?: number;
}

interface Kernel<Inputs extends readonly Tensor[], Options> extends Described<Inputs, Options> {
  source: KernelCode["source"];
  /**
   * Arguments of a launch. The CPU loop takes the same inputs; it runs over the first, so it needs no count.
   */
  work: (inputs: Inputs, options: Options) => Work;
  /** False where the CPU has no loop for it. */
  onCpu?: false;
}

export interface CpuKernel<Inputs extends readonly Tensor[], Options> extends Described<Inputs, Options> {
  /** Whether the processor has a loop for these scalars; where left out, it has. */
  runs?: (dtype: DType) => boolean;
  /** Arguments of the loop, which runs over the first. */
  inputs: (inputs: Inputs, options: Options) => readonly KernelInput[];
}

type Call<Inputs, Options> = (inputs: Inputs, options: Options) => void;

/** A kernel to call, with what its table says. */
export type Fused<Inputs extends readonly Tensor[], Options> = Kernel<Inputs, Options> &
  Call<Inputs, Options>;

/** Whether kernels of our own run on tensors as this one: else whoever has an order of ATen operators of its own uses that. */
export function isFused({ device, dtype }: Pick<Tensor, "device" | "dtype">): boolean {
  return hasScalar(dtype) && (uncompilable === undefined || !isOnCard(device));
}

/** Why sources can't be compiled for the card in use; undefined where nothing is known against it. */
let uncompilable: string | undefined;

/** Whether sources compile for a card of this compute capability (as 80 or 120); where not, twins run from here on, on cards and in plans. */
export function tryCompiling(capability: number): void {
  try {
    compileKernel({ source: "swiglu", entry: "swiglu", dtype: "float32" }, capability);
    uncompilable = undefined;
  } catch (thrown) {
    uncompilable = messageOf(thrown);
  }
}

/** Why twins run on the card in use, as tryCompiling found; undefined where our own kernels do. */
export function whyTwins(): string | undefined {
  return uncompilable;
}

/** Whether a device is a card, or a plan stands for one. */
export function isOnCard(device: Device): boolean {
  return isCard(device) || (device === "meta" && planTarget().device === "cuda");
}

/** A kernel with a CUDA source and, unless it says otherwise, a loop. */
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

/** A kernel that the CPU alone has. */
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

/** Runs what the device has for the kernel's scalars, the twin where that is nothing; a plan allocates nothing, as kernels do. */
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
