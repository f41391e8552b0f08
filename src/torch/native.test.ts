import { expect, test } from "vitest";
import { fromArray, ones } from "./create.ts";
import { OutOfMemoryError } from "./device.ts";
import { deviceCode, dtypeCode } from "./dtypes.ts";
import { native } from "./native.ts";
import { createGenerator } from "./random.ts";
import { scope, Tensor } from "./tensor.ts";

/** Calls an operator that may be in no table. Returned handles of tensors belong to the open scope. */
function call(name: string, ...inputs: unknown[]): unknown {
  const [operator, overload = ""] = name.split(".");
  return native.call(native.resolve(`aten::${operator}`, overload, []), ...inputs);
}

const values = (result: unknown): number[] => [...new Tensor(result as number).toFloat32Array()];

function handle(numbers: number[], shape = [numbers.length]): number {
  return fromArray(numbers, shape).handle;
}

const wholes = (numbers: number[]): number => fromArray(numbers, [numbers.length], { dtype: "int64" }).handle;

/** Returns the gradients of input, weight and bias that the mask selects. No bias is given. */
function normGradients(mask: boolean[]): unknown[] {
  const row = handle([1, 2], [1, 2]);
  const [mean, rstd, weight] = [handle([1.5], [1, 1]), handle([2], [1, 1]), handle([1, 1])];
  return call("native_layer_norm_backward", row, row, [2], mean, rstd, weight, null, mask) as unknown[];
}

type Case = [type: string, call: () => unknown, expected: unknown];
const float64 = dtypeCode("float64");
const cpu = deviceCode("cpu");
// biome-ignore format: a table
const CONVERTED: Case[] = [
  ["Tensor",           () => values(call("neg", handle([1, 2]))),                                        [-1, -2]],
  ["Tensor?, given",   () => values(call("linear", handle([2]), handle([3], [1, 1]), handle([4]))),      [10]],
  ["Tensor?, null",    () => values(call("linear", handle([2]), handle([3], [1, 1]), null)),             [6]],
  ["Tensor[]",         () => values(call("stack", [handle([1]), handle([2])], 1)),                       [1, 2]],
  ["Tensor?[]",        () => values(call("index.Tensor", handle([1, 2, 3, 4], [2, 2]), [null, wholes([1])])), [2, 4]],
  ["Scalar, whole",    () => values(call("add.Scalar", handle([1]), 2)),                                 [3]],
  ["Scalar, broken",   () => values(call("add.Scalar", handle([1]), 0.5)),                               [1.5]],
  ["Scalar, boolean",  () => values(call("add.Scalar", handle([1]), true)),                              [2]],
  ["Scalar, bigint",   () => values(call("add.Scalar", handle([1]), 2n)),                                [3]],
  ["int",              () => values(call("select.int", handle([1, 2]), 0, -1)),                          [2]],
  ["int, bigint",      () => values(call("select.int", handle([1, 2]), 0, 1n)),                          [2]],
  ["SymInt[]",         () => values(call("view", handle([1, 2]), [2, 1])),                               [1, 2]],
  ["int[2], a number", () => values(call("avg_pool2d", handle([1, 2, 3, 6], [1, 1, 2, 2]), 2)),          [3]],
  ["float",            () => values(call("leaky_relu", handle([-1]), 0.5)),                              [-0.5]],
  ["float[]?",         () => values(call("upsample_nearest1d.vec", handle([1, 2], [1, 1, 2]), null, [2])), [1, 1, 2, 2]],
  ["bool",             () => values(call("sum.dim_IntList", handle([1, 2]), [0], true)),                 [3]],
  ["bool[3]",          () => normGradients([true, false, false]).map((result) => result === null),       [false, true, true]],
  ["str",              () => values(call("gelu", handle([0]), "tanh")),                                  [0]],
  ["str?",             () => values(call("div.Tensor_mode", handle([7]), handle([2]), "floor")),         [3]],
  ["ScalarType?",      () => new Tensor(call("zeros", [1], float64) as number).dtype,                    "float64"],
  ["Layout?",          () => values(call("zeros", [1], undefined, "strided")),                           [0]],
  ["Device?",          () => new Tensor(call("zeros", [1], undefined, undefined, cpu) as number).device, "cpu"],
  ["MemoryFormat?",    () => new Tensor(call("clone", handle([1, 2, 3, 4], [1, 2, 1, 2]), "channels_last") as number).strides, [4, 1, 4, 2]],
  ["a result: int",    () => call("size.int", handle([1, 2]), 0),                                        2],
  ["a result: bool",   () => call("equal", handle([1]), handle([1])),                                    true],
  ["a result: Scalar", () => call("_local_scalar_dense", handle([1.5])),                                 1.5],
  ["a result: Tensor[]", () => (call("split.Tensor", handle([1, 2]), 1) as unknown[]).map(values),       [[1], [2]]],
  ["a result: several", () => (call("sort", handle([2, 1])) as unknown[]).map(values),                   [[1, 2], [1, 0]]],
];

test.each(CONVERTED)("%s goes in and out as the schema says", (_, run, expected) => {
  scope(() => expect(run()).toEqual(expected));
});

test("Generator? is the one that is given, or none", () => {
  scope(() => {
    using generator = createGenerator(3n, "cpu");
    using same = createGenerator(3n, "cpu");
    const draw = (from: unknown): number[] => values(call("bernoulli", ones([64]).mul(0.5).handle, from));
    expect(draw(generator.handle)).toEqual(draw(same.handle));
    expect(draw(null)).toHaveLength(64);
  });
});

type Refusal = [type: string, call: () => unknown, message: string];
// biome-ignore format: a table
const REFUSED: Refusal[] = [
  ["Tensor",       () => call("neg", "x"),                                   'aten::neg: argument "self" must be a Tensor, got string'],
  ["Tensor, none", () => call("neg"),                                        'aten::neg: argument "self" must be a Tensor, got undefined'],
  ["Tensor[]",     () => call("stack", handle([1])),                         'aten::stack: argument "tensors" must be an array, got number'],
  ["Tensor?[]",    () => call("index.Tensor", handle([1]), ["x"]),           'aten::index.Tensor: argument "indices" must be a Tensor, got string'],
  ["Scalar",       () => call("add.Scalar", handle([1]), "2"),               'aten::add.Scalar: argument "other" must be a number or a boolean, got string'],
  ["int",          () => call("select.int", handle([1]), 0, 0.5),            'aten::select.int: argument "index" must be a whole number, got 0.5'],
  ["int, too big", () => call("select.int", handle([1]), 0, 2n ** 64n),      'argument "index" must be a whole number of 64 bits, got bigint'],
  ["SymInt[]",     () => call("view", handle([1]), 1),                       'aten::view: argument "size" must be an array, got number'],
  ["float",        () => call("dropout", handle([1]), true, true),           'aten::dropout: argument "p" must be a number, got boolean'],
  ["bool",         () => call("dropout", handle([1]), 0, 1),                 'aten::dropout: argument "train" must be a boolean, got number'],
  ["str",          () => call("gelu", handle([1]), 3),                       'aten::gelu: argument "approximate" must be a string, got number'],
  ["ScalarType",   () => call("zeros", [1], 99),                             'aten::zeros: argument "dtype" must be a dtype'],
  ["Layout",       () => call("zeros", [1], undefined, "sparse"),            'aten::zeros: argument "layout" must be "strided", got string'],
  ["Device",       () => call("zeros", [1], undefined, undefined, "cpu"),    'aten::zeros: argument "device" must be a device'],
  ["MemoryFormat", () => call("clone", handle([1]), "rows"),                 'aten::clone: argument "memory_format" must be "contiguous"'],
  ["Generator",    () => call("bernoulli", handle([1]), "seed"),             'aten::bernoulli: argument "generator" must be a Generator, got string'],
  ["Dimname",      () => call("sum.dim_DimnameList", handle([1]), ["rows"]), 'must be left out (its type has no JavaScript form)'],
  ["one too many", () => call("neg", handle([1]), 2),                        "aten::neg: takes at most 1 arguments, got 2"],
  ["no such name", () => call("nothing"),                                    "aten::nothing"],
];

test.each(REFUSED)("%s: a wrong value is refused by operator and argument", (_, run, message) => {
  scope(() => expect(run).toThrow(message));
});

test.each([
  ["aten::_assert_async: CUDA error: out of memory", true],
  ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", true],
  ["cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", true],
  ["CUDA driver, loading a kernel: out of memory (2)", true],
  ["CUDA error: an illegal memory access was encountered", false],
  ["CUDA error: CUBLAS_STATUS_EXECUTION_FAILED", false],
])(
  "memory that a card's libraries are refused is out of memory, another fault is none: %s",
  (text, isMemory) => {
    scope(() => {
      const fault = (): unknown => call("_assert_async.msg", handle([0]), text); // its message comes from the caller
      expect(fault).toThrow(text);
      try {
        fault();
      } catch (thrown) {
        expect(thrown instanceof OutOfMemoryError).toBe(isMemory);
      }
    });
  },
);
