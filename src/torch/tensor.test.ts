import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  arange,
  cat,
  empty,
  fromArray,
  fromBytes,
  full,
  ones,
  randn,
  stack,
  where,
  zeros,
} from "./create.ts";
import { liveTensors, memoryStats } from "./device.ts";
import type { DType } from "./dtypes.ts";
import { dispose, grad, keep, scope, Tensor, withGrad } from "./tensor.ts";

/** Counts live tensors and their bytes. */
function alive(): { tensors: number; bytes: number } {
  return { tensors: liveTensors(), bytes: memoryStats("cpu").liveBytes };
}

/** Runs the body and asserts that everything that it made is freed. */
function expectNoneLeft(body: () => void): void {
  const before = alive();
  body();
  expect(alive()).toEqual(before);
}

describe("lifetimes", () => {
  test("a scope frees what it made but for what it returns", () => {
    const before = alive();
    const sum = scope(() => {
      const one = ones([4, 4]);
      return one.add(one).sumDim([0]);
    });
    expect([...sum.toFloat32Array()]).toEqual([8, 8, 8, 8]);
    expect(alive()).toEqual({ tensors: before.tensors + 1, bytes: before.bytes + 16 });
    sum.dispose();
    expect(alive()).toEqual(before);
  });

  test("tensors escape inside arrays, objects, Maps and Sets, cycles included", () => {
    expectNoneLeft(() => {
      const result = scope(() => {
        const made = {
          list: [ones([1])],
          map: new Map([["a", ones([2])]]),
          set: new Set([ones([3])]),
          self: {},
        };
        made.self = made;
        ones([100]);
        return made;
      });
      expect(result.list[0]?.shape).toEqual([1]);
      expect(result.map.get("a")?.shape).toEqual([2]);
      dispose(result);
    });
  });

  test("an exception frees everything, through every open scope", () => {
    expectNoneLeft(() => {
      expect(() =>
        scope(() => {
          ones([10]);
          scope(() => {
            ones([20]);
            throw new Error("on purpose");
          });
        }),
      ).toThrow("on purpose");
    });
  });

  test("keep takes a tensor out of every scope around", () => {
    const before = alive();
    let kept: Tensor | undefined;
    scope(() => {
      scope(() => {
        kept = keep({ deep: [ones([8])] }).deep[0];
      });
    });
    expect(kept?.numel).toBe(8);
    expect(alive().tensors).toBe(before.tensors + 1);
    kept?.dispose();
    expect(alive()).toEqual(before);
  });

  test("a tensor made outside of any scope is the caller's, and using frees it", () => {
    expectNoneLeft(() => {
      using outside = ones([3]);
      scope(() => void outside.add(1).sum());
      expect(outside.toFloat32Array()).toEqual(new Float32Array([1, 1, 1]));
    });
  });

  test("disposing twice, or a view before its base, is no error", () => {
    expectNoneLeft(() => {
      const base = ones([4]);
      const view = base.narrow(0, 1, 2);
      base.dispose();
      base.dispose();
      expect(view.toFloat32Array()).toEqual(new Float32Array([1, 1]));
      view.dispose();
    });
  });

  test("an async body is refused, and what it made is freed", () => {
    expectNoneLeft(() => {
      expect(() =>
        // @ts-expect-error an async body doesn't compile
        scope(async () => ones([4])),
      ).toThrow("scope: the body returned a promise");
      expect(() => scope(() => [ones([2])].values())).toThrow("scope: the body returned an iterator");
    });
  });

  test("a long scope forgets tensors that were disposed in it", () => {
    expectNoneLeft(() => {
      scope(() => {
        for (let step = 0; step < 2000; step++) ones([1]).dispose();
        const last = ones([1]);
        expect(last.owner?.tensors.length).toBeLessThan(1000);
      });
    });
  });

  test("any tree of scopes leaves exactly what left it", () => {
    interface Node {
      made: number;
      kept: number;
      returned: number;
      thrown: boolean;
      inner: Node[];
    }
    const { node } = fc.letrec<{ node: Node }>((tie) => ({
      node: fc.record({
        made: fc.nat(4),
        kept: fc.nat(2),
        returned: fc.nat(2),
        thrown: fc.integer({ min: 0, max: 9 }).map((n) => n === 0),
        inner: fc.oneof({ maxDepth: 4 }, fc.constant<Node[]>([]), fc.array(tie("node"), { maxLength: 3 })),
      }),
    }));
    const kept: Tensor[] = [];
    const run = ({ made, kept: keeps, returned, thrown, inner }: Node): Tensor[] =>
      scope(() => {
        for (let n = 0; n < made; n++) zeros([n + 1]).add(1);
        for (let n = 0; n < keeps; n++) kept.push(keep(zeros([2])));
        const passed = inner.flatMap(run);
        if (thrown) throw new RangeError("on purpose");
        return [...passed, ...Array.from({ length: returned }, () => zeros([1]))];
      });
    fc.assert(
      fc.property(node, (tree) => {
        const before = liveTensors();
        kept.length = 0;
        let returned: Tensor[] = [];
        try {
          returned = run(tree);
        } catch (error) {
          if (!(error instanceof RangeError)) throw error;
        }
        expect(liveTensors() - before).toBe(kept.length + returned.length);
        expect([...kept, ...returned].every((tensor) => tensor.shape.length === 1)).toBe(true);
        dispose([kept, returned]);
        expect(liveTensors()).toBe(before);
      }),
      { numRuns: 300 },
    );
  });

  test("an in-place op returns the tensor itself, and takes no new handle", () => {
    scope(() => {
      const x = ones([2]);
      const before = liveTensors();
      expect(x.add_(1).mul_(3)).toBe(x);
      expect(liveTensors()).toBe(before);
      expect([...x.toFloat32Array()]).toEqual([6, 6]);
    });
  });
});

describe("values", () => {
  test("arrays come back as they went in, in every dtype that JavaScript has", () => {
    scope(() => {
      for (const data of [
        new Float32Array([1.5, -2]),
        new Float64Array([1e300, 3]),
        new Int32Array([-5, 7]),
        new Int16Array([-5, 7]),
        new Int8Array([-5, 7]),
        new Uint8Array([5, 255]),
        new Uint16Array([5, 65535]),
        new Uint32Array([5, 4294967295]),
        new BigInt64Array([-(2n ** 62n), 3n]),
        new BigUint64Array([2n ** 63n, 3n]),
      ]) {
        expect(fromArray(data, [2]).toArray()).toEqual(data);
      }
    });
  });

  test("lists are float32 unless a dtype is given, which loses nothing on the way", () => {
    scope(() => {
      expect(fromArray([1, 2.5], [2]).dtype).toBe("float32");
      expect(fromArray([0, 2 ** 40 + 1], [2], { dtype: "int64" }).toArray()).toEqual(
        new BigInt64Array([0n, 2n ** 40n + 1n]),
      );
      expect(fromArray([0.1], [1], { dtype: "float64" }).item()).toBe(0.1);
      expect(fromArray([1, 2.5], [2], { dtype: "bfloat16" }).toArray()).toEqual(new Float32Array([1, 2.5]));
      expect(fromArray([1, 0], [2], { dtype: "bool" }).toArray()).toEqual(new Uint8Array([1, 0]));
    });
  });

  test("raw bytes round-trip in every dtype", () => {
    const dtypes: DType[] = [
      "float16",
      "bfloat16",
      "float8_e4m3fn",
      "float8_e5m2",
      "bool",
      "int64",
      "float64",
    ];
    scope(() => {
      for (const dtype of dtypes) {
        const bytes = zeros([3, 2], { dtype }).toBytes();
        expect(fromBytes(bytes, [3, 2], dtype).toBytes()).toEqual(bytes);
      }
    });
  });

  test("a transposed view is read row by row", () => {
    scope(() => {
      const x = fromArray([1, 2, 3, 4, 5, 6], [2, 3]).t();
      expect(x.shape).toEqual([3, 2]);
      expect(x.isContiguous).toBe(false);
      expect([...x.toFloat32Array()]).toEqual([1, 4, 2, 5, 3, 6]);
    });
  });

  test("creation functions default to float32, positions to int64", () => {
    scope(() => {
      expect(full([2], 1).dtype).toBe("float32");
      expect(arange(3).toArray()).toEqual(new BigInt64Array([0n, 1n, 2n]));
      expect([...arange(1, 3, { dtype: "float32" }).toFloat32Array()]).toEqual([1, 2]);
      expect(cat([ones([1, 2]), zeros([1, 2])], 1).shape).toEqual([1, 4]);
      expect(stack([ones([2]), zeros([2])], 1).shape).toEqual([2, 2]);
      const condition = fromArray([1, 0], [2], { dtype: "bool" });
      expect([...where(condition, ones([2]), -1).toFloat32Array()]).toEqual([1, -1]);
      expect([...where(condition, 5, zeros([2])).toFloat32Array()]).toEqual([5, 0]);
      expect([...where(condition, 5, 6).toFloat32Array()]).toEqual([5, 6]);
    });
  });

  test("to shares memory where nothing changes, and disposing the result leaves the source", () => {
    scope(() => {
      const x = randn([2]);
      const before = memoryStats("cpu").liveBytes;
      const same = x.to({ dtype: "float32" });
      expect(memoryStats("cpu").liveBytes).toBe(before);
      same.dispose();
      expect(x.disposed).toBe(false);
      expect(x.to({ dtype: "float64" }).dtype).toBe("float64");
    });
  });

  test("shape and dtype are fresh after an op that changes them in place", () => {
    scope(() => {
      const x = empty([2, 3]);
      expect(x.shape).toEqual([2, 3]);
      expect(x.resize_([5]).shape).toEqual([5]);
      expect(`${x}`).toBe("Tensor(float32[5] cpu)");
    });
  });
});

describe("gradients", () => {
  test("grad mode is off unless withGrad turns it on, and is again as it was where its body throws", () => {
    scope(() => {
      const x = ones([2]).requiresGrad_();
      expect(x.mul(2).requiresGrad).toBe(false);
      withGrad(() => {
        expect(x.mul(2).requiresGrad).toBe(true);
        withGrad(() => {});
        expect(x.mul(2).requiresGrad).toBe(true);
      });
      expect(x.mul(2).requiresGrad).toBe(false);
      expect(() =>
        withGrad(() => {
          throw new Error("on purpose");
        }),
      ).toThrow("on purpose");
      expect(x.mul(2).requiresGrad).toBe(false);
    });
  });

  test("grad gives the derivative, and the graph's memory goes with its scope", () => {
    expectNoneLeft(() => {
      scope(() => {
        const x = fromArray([1, 2, 3], [3]).requiresGrad_();
        const [dx] = withGrad(() => grad([x.square().sum()], [x]));
        expect([...(dx as Tensor).toFloat32Array()]).toEqual([2, 4, 6]);
      });
    });
  });

  test("an input without a part in the outputs is an error", () => {
    scope(() => {
      const x = ones([1]).requiresGrad_();
      const y = ones([1]).requiresGrad_();
      expect(() => withGrad(() => grad([x.mul(2)], [y]))).toThrow("not have been used in the graph");
    });
  });
});

test("a disposed tensor, as self or argument, is named by the op's error", () => {
  scope(() => {
    const gone = ones([2]);
    gone.dispose();
    expect(() => gone.add(1)).toThrow('aten::add.Scalar: argument "self" is a disposed tensor');
    expect(() => ones([2]).add(gone)).toThrow('aten::add.Tensor: argument "other" is a disposed tensor');
    expect(() => gone.shape).toThrow('shape: argument "self" is a disposed tensor');
    expect(() => grad([gone], [gone])).toThrow('grad: argument "outputs" is a disposed tensor');
    // @ts-expect-error a number is no tensor
    expect(() => grad([3], [gone])).toThrow('grad: argument "outputs" must be a Tensor, got number');
  });
});

test("errors name op, argument, shapes, dtypes and devices", () => {
  scope(() => {
    const x = ones([2, 3]);
    // @ts-expect-error a string is no tensor, and doesn't compile
    expect(() => x.mm("y")).toThrow('aten::mm: argument "mat2" must be a Tensor, got string "y"');
    // @ts-expect-error neither does a number
    expect(() => x.mm(3)).toThrow('aten::mm: argument "mat2" must be a Tensor, got number');
    expect(() => x.mm(ones([2, 3]))).toThrow(
      /^aten::mm: .*\(self: float32\[2, 3\] cpu, mat2: float32\[2, 3\] cpu\)$/,
    );
    expect(() => x.mm(ones([3, 2], { dtype: "float64" }))).toThrow("mat2: float64[3, 2] cpu");
    expect(() => x.add(ones([2, 3], { device: "meta" }))).toThrow("other: float32[2, 3] meta");
    expect(() => x.sumDim([0.5])).toThrow(
      'aten::sum.dim_IntList: argument "dim" must be a whole number, got 0.5',
    );
    // @ts-expect-error no such dtype
    expect(() => x.to({ dtype: "float31" })).toThrow(
      'argument "dtype" must be a dtype, got string "float31"',
    );
    // @ts-expect-error no such device
    expect(() => x.to({ device: "gpu" })).toThrow('argument "device" must be a device, got string "gpu"');
    expect(() => x.item()).toThrow("item: a tensor of one element is needed, got float32[2, 3] cpu");
  });
});

test("whole numbers beyond 2^53 go in as bigint", () => {
  scope(() => {
    const x = zeros([1], { dtype: "int64" }).fill_(2n ** 60n + 1n);
    expect(x.toArray()).toEqual(new BigInt64Array([2n ** 60n + 1n]));
  });
});

test("Tensor is a class of its own", () => {
  using x = ones([1]);
  expect(x).toBeInstanceOf(Tensor);
});
