/** Watches every call of an operator: has to be loaded before what calls them, which takes the function that does when it is. */
import { type OpTrace, type TracedTensor, traceOp } from "../src/plan/cost.ts";
import { dtypeOfCode } from "../src/torch/dtypes.ts";
import { native } from "../src/torch/native.ts";

type Observer = (op: OpTrace, processorMs: number) => void;

let observe: Observer | undefined;
const names = new Map<number, string>();
const { call } = native;
/** What looking at the clock takes. */
const idleMs = Math.min(...Array.from({ length: 1000 }, () => -(processorMs() - processorMs())));

native.call = (op, ...inputs) => {
  if (!observe) return call(op, ...inputs);
  const taken = inputs.filter(isTensor).map(describe);
  const before = processorMs();
  const result = call(op, ...inputs);
  const ms = processorMs() - before - idleMs;
  const results = [result ?? inputs[0]].flat() as unknown[];
  const outputs = results.filter(isTensor).map(describe);
  if (isView(nameOf(op), taken[0], outputs[0])) {
    for (const tensor of [taken[0]!, outputs[0]!]) tensor.storage = 0;
  }
  observe(traceOp({ op: nameOf(op), inputs: taken, outputs, causal: true }), ms);
  return result;
};

/** Has the time that each call takes of the processor told; undefined: no longer. */
export function observeCalls(observer: Observer | undefined): void {
  observe = observer;
}

/** Of all threads of this process. */
export function processorMs(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1000;
}

function nameOf(op: number): string {
  const name =
    names.get(op) ??
    native
      .schema(op)
      .replace(/^aten::/, "")
      .split("(")[0]!;
  names.set(op, name);
  return name;
}

function describe(handle: number): TracedTensor {
  return {
    shape: native.shape(handle),
    dtype: dtypeOfCode(native.dtype(handle)),
    strided: !native.isContiguous(handle),
  };
}

/** Whether an op that may copy did not, by what it was given. */
function isView(name: string, input: TracedTensor | undefined, output: TracedTensor | undefined): boolean {
  return /^(to|reshape|contiguous|flatten)/.test(name) && !input?.strided && input?.dtype === output?.dtype;
}

/** Handles and plain numbers look alike: a number is a tensor where it names one. */
function isTensor(input: unknown): input is number {
  try {
    return (
      typeof input === "number" && Number.isInteger(input) && input > 0 && native.shape(input).length > 0
    );
  } catch {
    return false;
  }
}
