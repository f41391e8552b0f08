import { expect, test } from "vitest";
import { randomTensor, relativeDifference } from "../../../tests/helpers/randomModel.ts";
import { empty } from "../../torch/create.ts";
import { memoryStats, planningFor, recordAllocations, resetPeak } from "../../torch/device.ts";
import { scope } from "../../torch/tensor.ts";
import { headsOfPacked } from "./calls.ts";
import { CARD_KERNELS, type CardKernel } from "./cardKernels.ts";
import {
  type AttentionShape,
  attentionWithSums,
  kernelBackward_,
  kernelFor,
  kernelForward,
  packedLengths,
  takesLastRows,
} from "./kernels.ts";

const [T, G, Q, D] = [512, 2, 4, 64] as const;
const target = { dtype: "bfloat16", device: "meta" } as const;
const card = { device: "cuda", computeCapability: 9 } as const;

function shapeOf(kernel: CardKernel | undefined, samples: AttentionShape["samples"]): AttentionShape {
  return { Q, D, samples, kernel };
}
const one = [{ start: 0, end: T }];
const several = [{ start: 0, end: 200 }, { start: 200, end: T }]; // biome-ignore format: as it is

test("a plan takes the kernel that is named, and else the rule's", () => {
  planningFor(card, () => {
    expect(kernelFor(target)).toBe("flash");
    expect(CARD_KERNELS.map((kernel) => kernelFor(target, kernel))).toEqual([
      "flash",
      "cudnn",
      "efficient",
      "cpuHalf",
    ]);
  });
  planningFor({ device: "cuda", computeCapability: 7.5 }, () => expect(kernelFor(target)).toBe("efficient"));
  expect(CARD_KERNELS.map((kernel) => kernelFor(target, kernel))).toEqual(Array(4).fill("cpuHalf"));
});

test.each(CARD_KERNELS)(
  "%s goes forward and back in a plan, with a peak of its own, and leaves nothing",
  (kernel) => {
    planningFor(card, () => {
      for (const samples of [one, several]) {
        scope(() => {
          const packed = empty([T, G, Q + 2, D], target);
          const dOut = empty([T, G, Q, D], target);
          const before = memoryStats("meta").liveBytes;
          resetPeak("meta");
          scope(() => {
            const shape = shapeOf(kernel, samples);
            const state = kernelForward(headsOfPacked(packed), shape);
            expect(state.out.shape).toEqual([T, G, Q, D]);
            kernelBackward_(headsOfPacked(packed), dOut, state, shape);
          });
          expect(memoryStats("meta").liveBytes).toBe(before);
          // At least the output, and the gradients of queries, keys and values.
          expect(memoryStats("meta").peakBytes - before).toBeGreaterThanOrEqual(2 * T * G * (2 * Q + 2) * D);
        });
      }
    });
  },
);

test("every kernel but cuDNN's takes queries of the last rows alone, in a plan of one sample or several", () => {
  planningFor(card, () => {
    const able = CARD_KERNELS.filter((kernel) => takesLastRows(target, kernel));
    expect(able).toEqual(["flash", "efficient", "products"]);
    for (const kernel of able) {
      for (const samples of [one, several]) {
        scope(() => {
          const firstQuery = 150;
          const [query, dOut] = [1, 2].map(() => empty([T - firstQuery, G, Q, D], target));
          const [key, value] = [1, 2].map(() => empty([T, G, 1, D], target));
          const heads = { query: query!, key: key!, value: value! };
          const before = memoryStats("meta").liveBytes;
          scope(() => {
            const shape = { ...shapeOf(kernel, samples), firstQuery };
            const state = kernelForward(heads, shape);
            expect(state.out.shape).toEqual(query!.shape);
            kernelBackward_(heads, dOut!, state, shape);
          });
          expect(memoryStats("meta").liveBytes).toBe(before);
        });
      }
    }
    scope(() => {
      const heads = headsOfPacked(empty([T, G, Q + 2, D], target));
      expect(() => kernelForward(heads, { ...shapeOf("cudnn", one), firstQuery: 1 })).toThrow("last rows");
    });
  });
});

test.each([
  ["the CPU's", "float32", undefined],
  ["products", "float32", "products"],
  ["products", "bfloat16", "products"],
] as const)("%s in %s computes the same for some query heads at a time", (_, dtype, kernel) => {
  const tolerance = dtype === "float32" ? 1e-6 : 1e-2;
  for (const samples of [one, several])
    scope(() => {
      const dOut = randomTensor([T, G, Q, D], 2, { dtype });
      const [whole, ...parts] = [undefined, 2, 1].map((queryHeads) => {
        const packed = randomTensor([T, G, Q + 2, D], 1, { dtype });
        const shape = { ...shapeOf(kernel, samples), queryHeads };
        const state = kernelForward(headsOfPacked(packed), shape);
        expect(state.saved).toHaveLength(samples.length * (Q / (queryHeads ?? Q)));
        kernelBackward_(headsOfPacked(packed), dOut, state, shape);
        return [state.out, packed] as const;
      });
      for (const part of parts)
        part.forEach((x, index) => {
          expect(relativeDifference(x, whole![index]!)).toBeLessThan(tolerance);
        });
    });
});

test.each(CARD_KERNELS)("%s needs less memory for one query head at a time, in a plan", (kernel) => {
  planningFor(card, () => {
    for (const samples of [one, several]) {
      const [all, each] = [undefined, 1].map((queryHeads) =>
        scope(() => {
          const packed = empty([T, 1, Q + 2, D], target);
          const dOut = empty([T, 1, Q, D], target);
          const before = memoryStats("meta").liveBytes;
          resetPeak("meta");
          const shape = { ...shapeOf(kernel, samples), queryHeads };
          kernelBackward_(headsOfPacked(packed), dOut, kernelForward(headsOfPacked(packed), shape), shape);
          return memoryStats("meta").peakBytes - before;
        }),
      );
      expect(each!).toBeLessThan(0.75 * all!);
    }
  });
});

test("the lengths of packed samples are made once where they are at hand, for flash attention alone", () => {
  planningFor(card, () =>
    scope(() => {
      const packed = empty([T, G, Q + 2, D], target);
      const shape = shapeOf("flash", several);
      const lengths = packedLengths(shape, target);
      expect(lengths?.keys.shape).toEqual([3]);
      for (const other of [shapeOf("flash", one), shapeOf("cudnn", several)])
        expect(packedLengths(other, target)).toBeUndefined();
      const made = (known: typeof lengths) =>
        recordAllocations("meta", () =>
          scope(() => void kernelForward(headsOfPacked(packed), { ...shape, lengths: known })),
        ).log.bytes.filter((bytes) => bytes === 12).length;
      expect(made(undefined)).toBe(G); // once per kv head
      expect(made(lengths)).toBe(0);
      const known = { ...shape, lengths };
      const state = kernelForward(headsOfPacked(packed), known);
      expect(state.saved.flat()).not.toContain(lengths?.keys); // freeing the state must not free them
      kernelBackward_(headsOfPacked(packed), empty([T, G, Q, D], target), state, known);
      expect(lengths?.keys.shape).toEqual([3]);
    }),
  );
});

test.each(["float32", "bfloat16"] as const)(
  "attention over parts of the keys comes with sums that merge it, in %s",
  (dtype) => {
    scope(() => {
      const [query, key, value] = [3, 70, 70].map((rows, seed) =>
        randomTensor([1, G, rows, D], seed, { dtype }),
      );
      const weights = query!
        .to({ dtype: "float32" })
        .matmul(key!.to({ dtype: "float32" }).transpose(2, 3))
        .mul_(D ** -0.5); // (1, G, 3, 70)
      const parts = [
        [0, 1],
        [1, 40],
        [41, 29],
      ].map(([start, rows]) => {
        const [out, sums] = attentionWithSums(
          query!,
          key!.narrow(2, start!, rows!),
          value!.narrow(2, start!, rows!),
        );
        const expected = weights.narrow(3, start!, rows!).logsumexp([3]);
        expect(relativeDifference(sums, expected)).toBeLessThan(dtype === "float32" ? 1e-6 : 1e-2);
        return { out: out.to({ dtype: "float32" }), sums };
      });
      const total = weights.logsumexp([3]);
      const merged = parts
        .map(({ out, sums }) => out.mul(sums.sub(total).exp().unsqueeze(3)))
        .reduce((sum, part) => sum.add(part));
      const expected = weights.softmax(3).matmul(value!.to({ dtype: "float32" }));
      expect(relativeDifference(merged, expected)).toBeLessThan(dtype === "float32" ? 1e-6 : 2e-2);
    });
  },
);

test.each([
  ["flash", 9],
  ["efficient", 7.5],
])("a plan of %s for parts of the keys has the shapes of a run", (_, computeCapability) => {
  planningFor({ device: "cuda", computeCapability }, () => {
    scope(() => {
      const rows = (count: number) => empty([1, G, count, D], target);
      const [out, sums] = attentionWithSums(rows(Q), rows(T), rows(T));
      expect([out.shape, sums.shape]).toEqual([
        [1, G, Q, D],
        [1, G, Q],
      ]);
    });
  });
});
