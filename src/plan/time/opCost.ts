/**
 * Computes from shapes the arithmetic and the memory traffic of a traced call of an operator. The times of a
 * CPU and of a card follow from them (stepTime.ts).
 */
import { type DType, dtypeBytes } from "../../torch/dtypes.ts";
import { type CollectiveCall, collectiveOf, EXPOSED_COPY } from "../../torch/trace.ts";

export interface TracedTensor {
  shape: readonly number[];
  dtype: DType;
  /** Place of the tensor; default: the device. */
  place?: "device" | "host";
  /** Whether its rows or columns lie apart. */
  strided?: boolean;
  /** Tensors with the same number share memory. */
  storage?: number;
}

/** A call of an ATen op ("addmm_", "sum.dim_IntList"), with its tensors in schema order. */
export interface OpCall {
  op: string;
  inputs: readonly TracedTensor[];
  outputs: readonly TracedTensor[];
  /** The is_causal argument of attention. */
  causal?: boolean;
  /** Length of every sample of packed attention; default: one sample. */
  sampleTokens?: readonly number[];
}

export interface OpTrace {
  name: string;
  /** none: a view or an allocation, which launches nothing. */
  kind: "matmul" | "attention" | "memory" | "none";
  flops: number;
  /** Bytes read and written; for a transfer, bytes moved. */
  bytes: number;
  /** Dtype of the arithmetic. */
  dtype: DType;
  /**
   * exposed: the part of the copies that the computing waits for; the copy stream has it too. host: what the
   * host computes on its own memory, which costs a card no time. link: collectives among ranks.
   */
  stream: "compute" | "copy" | "exposed" | "host" | "link";
  /** A collective; `bytes` are those of its result. */
  collective?: CollectiveCall;
  /** Whether a copy goes from the device to the host. */
  toHost?: boolean;
  /** The form of the call, on which a processor's time depends too. */
  form?: OpForm;
}

export interface OpForm {
  /** Dtypes of the first tensor, and of the first tensor that differs: "float32,bfloat16". */
  dtypes: string;
  /**
   * Number of processed elements. For attention: the pairs of query and key that are multiplied, visible or
   * not.
   */
  elements: number;
  /** Features of a head, for attention. */
  features?: number | undefined;
  /** Whether any tensor's rows or columns lie apart. */
  strided: boolean;
  /** Sizes of a matrix product. */
  product?: Product | undefined;
}

/** `times` products of (m, k) and (k, n). x': transposed, so its columns lie one after the other. */
export interface Product {
  times: number;
  m: number;
  n: number;
  k: number;
  layout: "a b" | "a b'" | "a' b";
}
/**
 * Keys that libtorch's CPU attention takes at a time, whether or not a query sees all of them: its
 * kvSplitSize.
 */
const CPU_KEYS = 512;

type Formula = (
  call: OpCall,
) => Pick<OpTrace, "kind" | "flops" | "bytes" | "dtype"> &
  Partial<Pick<OpForm, "elements" | "features" | "product">>;

/**
 * Ops that do not simply compute or move each input and output once. Names have no overload, and "_" only if
 * the formula is for that form alone.
 */
const FORMULAS: Readonly<Record<string, Formula>> = {
  ...each(["mm", "bmm", "matmul", "linear", "dot", "_int_mm", "_scaled_mm"], matmulOf(0)),
  ...each(["addmm", "baddbmm"], matmulOf(1)),
  conv2d: convolution,
  ...each(
    [
      "scaled_dot_product_attention",
      "_scaled_dot_product_flash_attention",
      "_scaled_dot_product_efficient_attention",
      "_efficient_attention_forward",
      "_scaled_dot_product_cudnn_attention",
      "_flash_attention_forward",
    ],
    attentionOf({ query: 0, matmuls: 2 }),
  ),
  ...each(
    [
      "_scaled_dot_product_flash_attention_backward",
      "_scaled_dot_product_efficient_attention_backward",
      "_efficient_attention_backward",
      "_scaled_dot_product_cudnn_attention_backward",
      "_flash_attention_backward",
    ],
    attentionOf({ query: 1, matmuls: 5 }),
  ),
  _scaled_dot_product_flash_attention_for_cpu: attentionOf({ query: 0, matmuls: 2, keyBlock: CPU_KEYS }),
  _scaled_dot_product_flash_attention_for_cpu_backward: attentionOf({
    ...{ query: 1, matmuls: 5, keyBlock: CPU_KEYS },
  }),
  ...each(["causal_tile", "causal_tile_backward"], tileOfAttention),
  ...each(["index_select", "embedding", "gather", "index", "masked_select"], gathering),
  ...each(["index_add_", "index_copy_", "index_put_", "scatter_", "scatter_add_"], scattering),
  ...each(["zeros", "ones", "full", "arange", "linspace", "rand", "randn", "randint", "randperm"], filling),
  ...each(["zeros_like", "ones_like", "full_like", "new_zeros", "new_full", "zero_", "fill_"], filling),
  ...each(["uniform_", "normal_", "random_", "bernoulli_"], filling),
  copy_: ({ inputs, outputs }) => moving(bytesOf(inputs.slice(1)) + bytesOf(outputs)),
  ...each(["empty", "empty_strided", "empty_like", "new_empty", "resize_", "set_"], nothing),
  ...each(["detach", "view", "expand", "expand_as", "permute", "transpose", "t", "unsqueeze"], nothing),
  ...each(["squeeze", "narrow", "slice", "select", "as_strided", "diagonal", "unfold"], nothing),
  ...each(["split", "split_with_sizes", "chunk", "unbind", "unflatten"], nothing),
  ...each(["reshape", "flatten", "contiguous", "_to_copy", "to"], viewOrCopy),
};

/**
 * Returns FLOPs and bytes of a call. An op without a formula reads its inputs and writes its outputs, and its
 * arithmetic costs nothing. A call with tensors on both sides of the link moves its last input.
 */
export function traceOp(call: OpCall): OpTrace {
  const name = call.op.split(".")[0]!;
  const collective = collectiveOf(name);
  if (collective) return { name, ...moving(bytesOf(call.outputs)), stream: "link", collective };
  const tensors = [...call.inputs, ...call.outputs];
  const places = new Set(tensors.map(({ place }) => place ?? "device"));
  if (places.size > 1) {
    const stream = name === EXPOSED_COPY ? "exposed" : "copy";
    const toHost = call.outputs[0]?.place === "host";
    return { name, ...moving(bytesOf(call.inputs.slice(-1))), stream, ...(toHost && { toHost }) };
  }
  const formula = FORMULAS[name] ?? FORMULAS[name.replace(/_$/, "")] ?? elementwise;
  const { elements, features, product, ...cost } = formula(call);
  const first = tensors[0]?.dtype ?? "float32";
  const other = tensors.find(({ dtype }) => dtype !== first)?.dtype;
  const form: OpForm = {
    dtypes: other ? `${first},${other}` : first,
    elements: elements ?? Math.max(0, ...tensors.map(elementsOf)),
    strided: tensors.some(({ strided }) => strided),
    ...(features && { features }),
    product,
  };
  return { name, ...cost, stream: places.has("host") ? "host" : "compute", form };
}

function each(names: readonly string[], formula: Formula): Record<string, Formula> {
  return Object.fromEntries(names.map((name) => [name, formula]));
}

/**
 * Counts 2 FLOPs for every element of the output and of the contracted dim, which is the left factor's last.
 * left: index of the left factor in the inputs.
 */
function matmulOf(left: number): Formula {
  return ({ op, inputs, outputs }) => {
    const factor = inputs[left]!;
    const k = factor.shape.at(-1) ?? 1;
    const elements = elementsOf(outputs[0]!);
    const n = outputs[0]!.shape.at(-1) ?? 1;
    const times = factor.shape.length === 3 && inputs[left + 1]!.shape.length === 3 ? factor.shape[0]! : 1;
    return {
      kind: "matmul",
      flops: 2 * elements * k,
      bytes: bytesOf(inputs) + bytesOf(outputs),
      dtype: factor.dtype,
      product: { times, m: elements / n / times, n, k, layout: layoutOf(factor, inputs[left + 1]!, op) },
    };
  };
}

/**
 * Returns the layout of a product. linear's second factor has its outputs as rows. If both factors are
 * transposed, the first alone decides.
 */
function layoutOf(a: TracedTensor, b: TracedTensor, op: string): Product["layout"] {
  if (a.strided) return "a' b";
  return (b.strided ?? false) !== op.startsWith("linear") ? "a b'" : "a b";
}

/** Counts a convolution. weight: (out, in / groups, height, width). */
function convolution({ inputs, outputs }: OpCall): ReturnType<Formula> {
  const [image, weight] = inputs as [TracedTensor, TracedTensor];
  const contracted = elementsOf(weight) / weight.shape[0]!;
  const elements = elementsOf(outputs[0]!);
  const n = weight.shape[0]!;
  return {
    kind: "matmul",
    flops: 2 * elements * contracted,
    bytes: bytesOf(inputs) + bytesOf(outputs),
    dtype: image.dtype,
    product: { times: 1, m: elements / n, n, k: contracted, layout: "a b" },
  };
}

/**
 * Counts attention. Each matmul takes 2 D FLOPs for every query, every key that it sees, and every head.
 * Forward has two matmuls. Backward has five, because it computes the scores again (arXiv:2205.14135). query:
 * index of the queries in the inputs; (B, H, T, D), or (T, H, D) and (B, T, H, D) in _flash_attention_* and
 * _efficient_attention_*.
 */
function attentionOf({
  query,
  matmuls,
  keyBlock = 1,
}: Record<"query" | "matmuls", number> & { keyBlock?: number }): Formula {
  return (call) => {
    const { inputs, outputs } = call;
    const [queries, keys] = [inputs[query]!, inputs[query + 1]!];
    const features = queries.shape.at(-1)!;
    return {
      kind: "attention",
      flops: matmuls * 2 * features * visiblePairs(call, queries, keys),
      bytes: bytesOf(inputs) + bytesOf(outputs),
      dtype: queries.dtype,
      elements: visiblePairs(call, queries, keys, keyBlock),
      features,
    };
  };
}

/**
 * Returns the number of pairs over all heads and samples. A causal query sees the keys up to its own, or up
 * to the end of their block; the last query sees all of its sample. If there are fewer queries than keys, the
 * first queries of the first sample are missing.
 */
function visiblePairs(call: OpCall, query: TracedTensor, key: TracedTensor, keyBlock = 1): number {
  const { op, causal, sampleTokens } = call;
  const tokensDim = /^_(flash|efficient)_attention/.test(op) ? -3 : -2;
  const [queries, keys] = [query.shape.at(tokensDim)!, key.shape.at(tokensDim)!];
  const rows = elementsOf(query) / query.shape.at(-1)! / queries; // batch and heads
  if (!causal) return rows * queries * keys;
  const before = (tokens: number): number => {
    const blocks = Math.floor(tokens / keyBlock);
    return (keyBlock ** 2 * blocks * (blocks + 1)) / 2 + (tokens - blocks * keyBlock) * tokens;
  };
  const pairs = (sampleTokens ?? [keys]).reduce((sum, tokens) => sum + before(tokens), 0);
  return rows * (pairs - before(keys - queries));
}

/**
 * Counts the CPU's own attention kernels (attentionTiles.ts) for a tile. The tile's weights are the first
 * output, its queries the first input.
 */
function tileOfAttention(call: OpCall): ReturnType<Formula> {
  const [query, weights] = [call.inputs[0]!, call.outputs[0]!];
  return { ...elementwise(call), elements: elementsOf(weights), features: query.shape.at(-1)! };
}

/** Counts reading the indices, and reading as many bytes of the first input as are written. */
function gathering({ inputs, outputs }: OpCall): ReturnType<Formula> {
  const indices = inputs.filter(({ dtype }) => dtype === "int64" || dtype === "int32" || dtype === "bool");
  return { ...moving(2 * bytesOf(outputs) + bytesOf(indices)), elements: elementsOf(outputs[0]!) };
}

/** Counts reading the source and the indices, and reading and writing as many bytes of the target. */
function scattering({ inputs }: OpCall): ReturnType<Formula> {
  const [, ...indexAndSource] = inputs;
  return {
    ...moving(bytesOf(indexAndSource) + 2 * bytesOf(inputs.slice(-1))),
    elements: elementsOf(inputs.at(-1)!),
  };
}

function filling({ outputs }: OpCall): ReturnType<Formula> {
  return moving(bytesOf(outputs));
}

function elementwise({ inputs, outputs }: OpCall): ReturnType<Formula> {
  return moving(bytesOf(inputs) + bytesOf(outputs));
}

/** Costs nothing if the result shares the input's memory. */
function viewOrCopy(call: OpCall): ReturnType<Formula> {
  const [from, to] = [call.inputs[0]?.storage, call.outputs[0]?.storage];
  return from !== undefined && from === to ? nothing() : elementwise(call);
}

function moving(bytes: number): ReturnType<Formula> {
  return { kind: "memory", flops: 0, bytes, dtype: "float32" };
}

function nothing(): ReturnType<Formula> {
  return { kind: "none", flops: 0, bytes: 0, dtype: "float32" };
}

function elementsOf({ shape }: TracedTensor): number {
  return shape.reduce((product, size) => product * size, 1);
}

function bytesOf(tensors: readonly TracedTensor[]): number {
  return tensors.reduce((sum, tensor) => sum + elementsOf(tensor) * dtypeBytes(tensor.dtype), 0);
}
