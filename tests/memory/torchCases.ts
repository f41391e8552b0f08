/** Calls of the operators in the tables of src/torch/ops.ts, by "name" or "name: variant". */
import * as ops from "../../src/torch/ops.gen.ts";
import { createGenerator } from "../../src/torch/random.ts";
import type { Tensor } from "../../src/torch/tensor.ts";
import type { Inputs } from "./torchInputs.ts";

/** Calls an op. Returns its result, or nothing if the op works in place. */
export type Case = (of: Inputs) => unknown;
export type Cases = Record<string, Case>;

const UNARY = [
  ..."neg neg_ abs sign exp exp_ log log_ sqrt sqrt_ rsqrt rsqrt_ square reciprocal cos sin round floor ceil trunc".split(
    " ",
  ),
  ..."sigmoid sigmoid_ silu silu_ gelu tanh relu sum mean max min any all argmax argmin norm countNonzero nonzero unique".split(
    " ",
  ),
  ..."sort argsort bernoulli uniform_ normal_ zero_ clone contiguous zerosLike onesLike emptyLike _toCopy detach t".split(
    " ",
  ),
  ..."logicalNot isnan isinf isfinite tril triu nanToNum_ linalgVectorNorm flatten set_".split(" "),
];
const BINARY = [
  ..."add add_ sub sub_ mul mul_ div div_ remainder maximum minimum pow eq ne lt le gt ge copy_ rsub".split(
    " ",
  ),
  ..."logicalAnd logicalOr equal allclose isSameSize expandAs".split(" "),
];
const WITH_NUMBER =
  "add add_ sub sub_ mul mul_ div div_ remainder pow eq ne lt le gt ge rsub fill_ clampMin_ clampMax_".split(
    " ",
  );

// Names come from tables here, so that types are given up for these.
// biome-ignore lint/suspicious/noExplicitAny: a method by its name
const method = (x: Tensor, name: string): ((...inputs: unknown[]) => unknown) => (x as any)[name].bind(x);

/** Every form of an elementwise op that allocates in its own way. */
export const ELEMENTWISE: Cases = {
  ...Object.fromEntries(UNARY.map((name) => [name, (of: Inputs) => method(of.x(), name)()])),
  ...Object.fromEntries(
    UNARY.map((name) => [`${name}: turned`, (of: Inputs) => method(of.turned(), name)()]),
  ),
  ...Object.fromEntries(UNARY.map((name) => [`${name}: slice`, (of: Inputs) => method(of.slice(), name)()])),
  ...Object.fromEntries(BINARY.map((name) => [name, (of: Inputs) => method(of.x(), name)(of.x())])),
  ...Object.fromEntries(
    BINARY.map((name) => [`${name}: turned`, (of: Inputs) => method(of.x(), name)(of.turned())]),
  ),
  ...Object.fromEntries(
    BINARY.map((name) => [`${name}: slice`, (of: Inputs) => method(of.slice(), name)(of.x())]),
  ),
  ...Object.fromEntries(
    WITH_NUMBER.map((name) => [`${name}: number`, (of: Inputs) => method(of.x(), name)(2)]),
  ),
  "add: row": (of) => of.x().add(of.x(of.sizes.columns)),
  "mul: column": (of) => of.x().mul(of.x(of.sizes.rows, 1)),
  "add_: column": (of) => of.x().add_(of.x(of.sizes.rows, 1)),
  "add: float64 scalar tensor": (of) => of.x().add(of.x().to({ dtype: "float64" })),
  divMode: (of) => of.x().divMode(2, { roundingMode: "floor" }),
  clamp: (of) => of.x().clamp({ min: 0 }),
  clamp_: (of) => of.x().clamp_({ min: 0, max: 1 }),
  addcmul: (of) => of.x().addcmul(of.x(), of.x()),
  addcmul_: (of) => of.x().addcmul_(of.x(), of.x(), { value: 2 }),
  addcdiv: (of) => of.x().addcdiv(of.x(), of.x()),
  addcdiv_: (of) => of.x().addcdiv_(of.x(), of.x(), { value: -0.1 }),
  lerp_: (of) => of.x().lerp_(of.x(), 0.5),
  "lerp_: tensor": (of) => of.x().lerp_(of.x(), of.x()),
  maskedFill: (of) => of.x().maskedFill(of.flags(), 1),
  maskedFill_: (of) => of.x().maskedFill_(of.flags(of.sizes.rows, 1), 1),
  _where: (of) => ops._where(of.flags(), of.x(), of.x()),
  "_where: column": (of) => ops._where(of.flags(of.sizes.rows, 1), of.x(), of.x()),
  "_where: number": (of) => ops._where(of.flags(), of.x(), 0),
  whereOut: (of) => {
    const out = of.x();
    ops.whereOut(of.flags(), out, of.x(), { out });
    return out;
  },
  _whereScalarSelf: (of) => ops._whereScalarSelf(of.flags(), 0, of.x()),
  _whereScalar: (of) => ops._whereScalar(of.flags(), 0, 1),
  siluBackward: (of) => ops.siluBackward(of.x(), of.x()),
  geluBackward: (of) => ops.geluBackward(of.x(), of.x()),
  bernoulli_: (of) => of.x().bernoulli_({ p: 0.5, generator: createGenerator(1, of.sizes.device) }),
  random_: (of) => of.x().random_(0, 10),
  bitwiseAnd: (of) => of.ints().bitwiseAnd(of.ints()),
  bitwiseOr: (of) => of.ints().bitwiseOr(3),
  bitwiseXor: (of) => of.ints().bitwiseXor(of.ints()),
  bitwiseNot: (of) => of.ints().bitwiseNot(),
  bitwiseLeftShift: (of) => of.ints().bitwiseLeftShift(2),
  bitwiseRightShift: (of) => of.ints().bitwiseRightShift(2),
  "_toCopy: float64": (of) => of.x()._toCopy({ dtype: "float64" }),
  "copy_: bfloat16": (of) => of.x().copy_(of.x().to({ dtype: "bfloat16" })),
};

export const MATRICES: Cases = {
  mm: (of) => of.x().mm(of.x(of.sizes.columns, of.sizes.inner)),
  "mm: t": (of) => of.x().mm(of.x(of.sizes.inner, of.sizes.columns).t()),
  "mm: t of both": (of) => of.turned().mm(of.x(of.sizes.inner, of.sizes.columns).t()),
  "mm: gradient": (of) => of.x().t().mm(of.x(of.sizes.rows, of.sizes.inner)),
  "mm: slices": (of) =>
    of.slice().mm(
      of
        .x(of.sizes.inner, of.sizes.columns + 2)
        .narrow(1, 1, of.sizes.columns)
        .t(),
    ),
  addmm: (of) => of.x(of.sizes.inner).addmm(of.x(), of.x(of.sizes.columns, of.sizes.inner)),
  addmm_: (of) => of.x(of.sizes.rows, of.sizes.inner).addmm_(of.x(), of.x(of.sizes.columns, of.sizes.inner)),
  "addmm_: t": (of) =>
    of
      .x(of.sizes.rows, of.sizes.inner)
      .addmm_(of.x(), of.x(of.sizes.inner, of.sizes.columns).t(), { alpha: 2 }),
  "addmm_: into rows": (of) =>
    of
      .x(of.sizes.rows + 2, of.sizes.inner)
      .narrow(0, 1, of.sizes.rows)
      .addmm_(of.x(), of.x(of.sizes.inner, of.sizes.columns).t()),
  "addmm_: into columns": (of) =>
    of
      .x(of.sizes.rows, of.sizes.inner + 4)
      .narrow(1, 0, of.sizes.inner)
      .addmm_(of.x(), of.x(of.sizes.inner, of.sizes.columns).t()),
  "addmm_: gradient": (of) =>
    of.x(of.sizes.columns, of.sizes.inner).addmm_(of.x().t(), of.x(of.sizes.rows, of.sizes.inner)),
  "addmm_: overwrite": (of) =>
    of
      .x(of.sizes.rows, of.sizes.inner)
      .addmm_(of.x(), of.x(of.sizes.inner, of.sizes.columns).t(), { beta: 0 }),
  bmm: (of) => of.x(3, of.sizes.rows, of.sizes.columns).bmm(of.x(3, of.sizes.columns, of.sizes.inner)),
  "bmm: transposed": (of) =>
    of.x(3, of.sizes.rows, of.sizes.columns).bmm(of.x(3, of.sizes.inner, of.sizes.columns).transpose(1, 2)),
  baddbmm: (of) =>
    of
      .x(3, of.sizes.rows, of.sizes.inner)
      .baddbmm(of.x(3, of.sizes.rows, of.sizes.columns), of.x(3, of.sizes.columns, of.sizes.inner)),
  baddbmm_: (of) =>
    of
      .x(3, of.sizes.rows, of.sizes.inner)
      .baddbmm_(of.x(3, of.sizes.rows, of.sizes.columns), of.x(3, of.sizes.columns, of.sizes.inner)),
  matmul: (of) => of.x(2, of.sizes.rows, of.sizes.columns).matmul(of.x(of.sizes.columns, of.sizes.inner)),
  linear: (of) => of.x().linear(of.x(of.sizes.inner, of.sizes.columns)),
  "linear: bias": (of) =>
    of.x().linear(of.x(of.sizes.inner, of.sizes.columns), { bias: of.x(of.sizes.inner) }),
  "linear: slice": (of) => of.slice().linear(of.x(of.sizes.inner, of.sizes.columns)),
  "linear: 3 dims": (of) =>
    of
      .x(2, of.sizes.rows, of.sizes.columns)
      .linear(of.x(of.sizes.inner, of.sizes.columns), { bias: of.x(of.sizes.inner) }),
  outer: (of) => of.x(of.sizes.rows).outer(of.x(of.sizes.columns)),
  dot: (of) => of.x(of.sizes.rows).dot(of.x(of.sizes.rows)),
};

export const REDUCTIONS: Cases = {
  sumDim: (of) => of.x().sumDim([0]),
  "sumDim: float64": (of) => of.x().sumDim([0], { dtype: "float64" }),
  "sumDim: last": (of) => of.x().sumDim([-1], { keepdim: true }),
  meanDim: (of) => of.x().meanDim([-1], { keepdim: true }),
  "meanDim: first": (of) => of.x().meanDim([0]),
  varDim: (of) => of.x().varDim({ dim: [-1] }),
  prodDim: (of) => of.x().prodDim(0),
  maxDim: (of) => of.x().maxDim(-1),
  minDim: (of) => of.x().minDim(0),
  amax: (of) => of.x().amax({ dim: [-1], keepdim: true }),
  amin: (of) => of.x().amin({ dim: [0] }),
  "argmax: last": (of) => of.x().argmax({ dim: -1 }),
  anyDim: (of) => of.x().anyDim(0),
  allDim: (of) => of.x().allDim(0),
  "linalgVectorNorm: last": (of) => of.x().linalgVectorNorm({ dim: [-1] }),
  logsumexp: (of) => of.x().logsumexp([-1]),
  cumsum: (of) => of.x().cumsum(0),
  softmax: (of) => of.x().softmax(-1),
  "softmax: turned": (of) => of.turned().softmax(-1),
  "softmax: first": (of) => of.x().softmax(0),
  logSoftmax: (of) => of.x().logSoftmax(-1),
  _softmax: (of) => of.x()._softmax(-1, false),
  _logSoftmax: (of) => of.x()._logSoftmax(-1, false),
  _softmaxBackwardData: (of) => ops._softmaxBackwardData(of.x(), of.x(), -1, of.sizes.dtype),
  "sort: last": (of) => of.ramp().sort({ dim: -1, descending: true }),
  topk: (of) => of.ramp().topk(1),
  searchsorted: (of) => of.ramp().searchsorted(of.x(of.sizes.rows, 2)),
  multinomial: (of) => of.x().multinomial(1),
};

export const SHAPES: Cases = {
  fullLike: (of) => of.x().fullLike(1),
  newEmpty: (of) => of.x().newEmpty([3]),
  newZeros: (of) => of.x().newZeros([3]),
  newFull: (of) => of.x().newFull([3], 1),
  "contiguous: turned": (of) => of.turned().contiguous(),
  view: (of) => of.x().view([-1]),
  viewDtype: (of) => of.x().viewDtype("uint8"),
  reshape: (of) => of.turned().reshape([-1]),
  unflatten: (of) => of.x().unflatten(0, [of.sizes.rows, 1]),
  expand: (of) => of.x(1, of.sizes.columns).expand([of.sizes.rows, of.sizes.columns]),
  permute: (of) => of.x().permute([1, 0]),
  transpose: (of) => of.x().transpose(0, 1),
  unsqueeze: (of) => of.x().unsqueeze(0),
  squeeze: (of) => of.x().squeeze(0),
  narrow: (of) => of.x().narrow(0, 0, 1),
  slice: (of) => of.x().slice({ dim: 1, start: 1 }),
  select: (of) => of.x().select(0, 0),
  asStrided: (of) => of.x().asStrided([2], [1]),
  diagonal: (of) => of.x().diagonal(),
  unfold: (of) => of.x().unfold(0, 1, 1),
  split: (of) => of.x().split(1),
  splitWithSizes: (of) => of.x().splitWithSizes([1, of.sizes.rows - 1]),
  chunk: (of) => of.x().chunk(2),
  unbind: (of) => of.x().unbind(),
  repeat: (of) => of.x().repeat([2, 3]),
  repeatInterleave: (of) => of.x().repeatInterleave(3, { dim: 0 }),
  flip: (of) => of.x().flip([0]),
  roll: (of) => of.x().roll(1, { dims: [0] }),
  setSource_: (of) => of.x().setSource_(of.x()),
  resize_: (of) => of.x().resize_([of.sizes.rows * 2, of.sizes.columns]),
  _cat: (of) => ops._cat([of.x(), of.x()], { dim: 0 }),
  "_cat: turned": (of) => ops._cat([of.turned(), of.slice()], { dim: 1 }),
  _stack: (of) => ops._stack([of.x(), of.x()], { dim: 1 }),
  _empty: (of) => ops._empty([of.sizes.rows, 3], of.sizes),
  emptyStrided: (of) => ops.emptyStrided([of.sizes.rows, 3], [3, 1], of.sizes),
  _zeros: (of) => ops._zeros([of.sizes.rows], of.sizes),
  _ones: (of) => ops._ones([of.sizes.rows], of.sizes),
  _full: (of) => ops._full([of.sizes.rows], 2, of.sizes),
  _arange: (of) => ops._arange(0, of.sizes.rows, of.sizes),
  arangeStep: (of) => ops.arangeStep(0, of.sizes.rows, { ...of.sizes, step: 2 }),
  linspace: (of) => ops.linspace(0, 1, of.sizes.rows, of.sizes),
  _rand: (of) => ops._rand([of.sizes.rows], { generator: null, ...of.sizes }),
  _randn: (of) => ops._randn([of.sizes.rows, of.sizes.columns], { generator: null, ...of.sizes }),
  _randint: (of) =>
    ops._randint(0, 5, [of.sizes.rows], { generator: null, device: of.sizes.device, dtype: "int64" }),
  _randperm: (of) =>
    ops._randperm(of.sizes.rows, { generator: null, device: of.sizes.device, dtype: "int64" }),
};

export const INDEXING: Cases = {
  indexSelect: (of) => of.x().indexSelect(0, of.index(5)),
  "indexSelect: columns": (of) => of.x().indexSelect(1, of.index(5)),
  indexCopy_: (of) => of.x().indexCopy_(0, of.index(2), of.x(2, of.sizes.columns)),
  indexAdd_: (of) => of.x().indexAdd_(0, of.index(2), of.x(2, of.sizes.columns)),
  indexFill_: (of) => of.x().indexFill_(0, of.index(2), 0),
  gather: (of) => of.x().gather(1, of.index(of.sizes.rows, 1)),
  scatter: (of) => of.x().scatter(1, of.index(of.sizes.rows, 1), of.x(of.sizes.rows, 1)),
  scatterValue: (of) => of.x().scatterValue(1, of.index(of.sizes.rows, 1), 1),
  scatter_: (of) => of.x().scatter_(1, of.index(of.sizes.rows, 1), of.x(of.sizes.rows, 1)),
  scatterValue_: (of) => of.x().scatterValue_(1, of.index(of.sizes.rows, 1), 1),
  scatterAdd_: (of) => of.x().scatterAdd_(1, of.index(of.sizes.rows, 1), of.x(of.sizes.rows, 1)),
  index: (of) => of.x().index([of.index(4)]),
  "index: both": (of) => of.x().index([of.index(4), of.index(4)]),
  indexPut_: (of) => of.x().indexPut_([of.index(4)], of.x(4, of.sizes.columns)),
  maskedSelect: (of) => of.x().maskedSelect(of.flags()),
  embedding: (of) => of.x().embedding(of.index(7)),
};

export const NETWORKS: Cases = {
  layerNorm: (of) =>
    of.x().layerNorm([of.sizes.columns], { weight: of.x(of.sizes.columns), bias: of.x(of.sizes.columns) }),
  nativeLayerNorm: (of) =>
    of.x().nativeLayerNorm([of.sizes.columns], of.x(of.sizes.columns), of.x(of.sizes.columns), 1e-5),
  "nativeLayerNorm: turned": (of) => of.turned().nativeLayerNorm([of.sizes.columns], null, null, 1e-5),
  nativeLayerNormBackward: (of) => {
    const [, mean, rstd] = of.x().nativeLayerNorm([of.sizes.columns], of.x(of.sizes.columns), null, 1e-5);
    const weight = of.x(of.sizes.columns);
    return ops.nativeLayerNormBackward(of.x(), of.x(), [of.sizes.columns], mean, rstd, weight, null, [
      true,
      true,
      false,
    ]);
  },
  rmsNorm: (of) => of.x().rmsNorm([of.sizes.columns], { weight: of.x(of.sizes.columns), eps: 1e-5 }),
  _fusedRmsNorm: (of) => ops._fusedRmsNorm(of.x(), [of.sizes.columns], of.x(of.sizes.columns), 1e-5),
  "_fusedRmsNorm: no weight": (of) => ops._fusedRmsNorm(of.x(), [of.sizes.columns], null, 1e-5),
  _scaledDotProductFlashAttentionForCpu: (of) => {
    const q = of.attention();
    return ops._scaledDotProductFlashAttentionForCpu(q, of.attention(), of.attention(), { isCausal: true });
  },
  "_scaledDotProductFlashAttentionForCpu: contiguous, shorter keys": (of) => {
    const { heads, rows, headDim } = of.sizes;
    const k = of.x(1, heads, rows + 3, headDim);
    return ops._scaledDotProductFlashAttentionForCpu(of.x(1, heads, rows, headDim), k, k);
  },
  _scaledDotProductFlashAttentionForCpuBackward: (of) => {
    const [q, k, v] = [of.attention(), of.attention(), of.attention()];
    const [out, logsumexp] = ops._scaledDotProductFlashAttentionForCpu(q, k, v, { isCausal: true });
    return ops._scaledDotProductFlashAttentionForCpuBackward(
      of.attention(),
      q,
      k,
      v,
      out,
      logsumexp,
      0,
      true,
    );
  },
  conv2d: (of) => of.x(2, 3, 28, 28).conv2d(of.x(8, 3, 14, 14), { stride: 14 }),
  upsampleBicubic2d: (of) => of.x(1, 3, 9, 7).upsampleBicubic2d([of.sizes.rows, of.sizes.columns], false),
  crossEntropyLoss: (of) => of.x().crossEntropyLoss(of.index(of.sizes.rows)),
  nllLoss: (of) => of.x().nllLoss(of.index(of.sizes.rows)),
  scaledDotProductAttention: (of) =>
    ops.scaledDotProductAttention(of.attention(), of.attention(), of.attention()),
};

export const ALL: Cases = { ...ELEMENTWISE, ...MATRICES, ...REDUCTIONS, ...SHAPES, ...INDEXING, ...NETWORKS };
