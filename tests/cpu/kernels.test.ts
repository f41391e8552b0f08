/** Compares the loops of the CPU kernels with their twins, at every vector level that the processor has. */
import fc from "fast-check";
import { afterAll, describe, expect, test } from "vitest";
import { empty, fromArray, ones, randn, zeros } from "../../src/torch/create.ts";
import { memoryStats, planningFor, resetPeak } from "../../src/torch/device.ts";
import type { DType } from "../../src/torch/dtypes.ts";
import { attentionLoops } from "../../src/torch/kernels/attentionLoops.ts";
import { attentionTiles, panelsOf } from "../../src/torch/kernels/attentionTiles.ts";
import { fused } from "../../src/torch/kernels/kernels.ts";
import { NF4_VALUES } from "../../src/torch/kernels/quantizedSources.ts";
import { LOOP_LEVELS, native } from "../../src/torch/native.ts";
import { manualSeed } from "../../src/torch/random.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import {
  type AnyKernel,
  CASES,
  type CaseOf,
  compareToTwin,
  type KernelCase,
  kernelOf,
  ROUNDING,
  type Scalars,
  type Sizes,
} from "../cuda/kernelCases.ts";

type AnyLoop = Pick<AnyKernel, "entry" | "tolerance" | "roundings" | "twin"> &
  ((inputs: readonly Tensor[], options: unknown) => void);

const OF_ATTENTION: Record<keyof typeof attentionLoops, CaseOf> = {
  causalSoftmax: ({ rows, columns, extra }, dtype) => ({
    inputs: [randn([rows * (extra + 1), columns + rows], { dtype }).mul_(3)],
    options: { heads: extra + 1, start: columns, scale: 0.3 },
    written: [0],
  }),
  softmaxBackward: ({ rows, columns }, dtype) => ({
    inputs: [randn([rows, columns], { dtype }), randn([rows, columns], { dtype })._softmax(-1, false)],
    options: { scale: 0.3 },
    written: [0],
  }),
  gatherRows: ({ rows, columns, extra }, dtype) => ({
    inputs: [
      empty([rows, columns], { dtype }),
      randn([rows, columns + 2 * extra], { dtype }).narrow(1, extra, columns),
    ],
    options: undefined,
    written: [0],
  }),
  addWide: ({ rows, columns }, dtype) => ({
    inputs: [randn([rows, columns], { dtype }), randn([rows, columns])],
    options: undefined,
    written: [1],
  }),
};

/**
 * Returns a tile of rows. Each row sees `columns` earlier keys and the tile's own; the head has `extra` more
 * keys.
 */
function tileOf({ rows, columns, extra }: Sizes, dtype: DType) {
  const [heads, width, seen] = [extra + 1, 16 + 2 * rows, columns + rows];
  const ofHead = (): Tensor => randn([seen + extra, width + 8], { dtype }).narrow(1, 0, width);
  const [key, value] = [ofHead(), ofHead()];
  const byRows = (columnsOfRow: number): Tensor => randn([rows * heads, columnsOfRow], { dtype });
  return {
    ...{ key, value, weights: byRows(seen), dScores: byRows(seen) },
    ...{ out: byRows(width), query: byRows(width), dOut: byRows(width) },
    seenOf: (x: Tensor): Tensor => x.narrow(0, 0, seen),
    options: { heads, start: columns, scale: 0.1, allKeys: seen + extra },
  };
}

const panelsCase =
  (order: "columns" | "pairs"): CaseOf =>
  ({ rows, columns }, dtype) => {
    const x = randn([rows, columns + 3], { dtype }).narrow(1, 0, columns);
    const [along, across] = order === "columns" ? [columns, rows] : [rows, columns];
    const together = native.panelPairs();
    const pairs = Math.ceil(along / 2 / together) * together;
    const out = empty([Math.ceil(across / 64), pairs, 64, 2], { dtype });
    return { inputs: [out, x], options: undefined, written: [0] };
  };

const OF_TILES: Record<keyof typeof attentionTiles, CaseOf> = {
  packColumns: panelsCase("columns"),
  packPairs: panelsCase("pairs"),
  causalTile: (sizes, dtype) => {
    const { key, value, weights, out, query, seenOf, options } = tileOf(sizes, dtype);
    const panels = [panelsOf(key, "columns"), panelsOf(value, "pairs")];
    return {
      inputs: [weights, out, query, seenOf(key), seenOf(value), ...panels],
      ...{ options, written: [0, 1] },
    };
  },
  causalTileBackward: (sizes, dtype) => {
    const { key, value, weights, dScores, out, query, dOut, seenOf, options } = tileOf(sizes, dtype);
    const panels = [panelsOf(key, "columns"), panelsOf(value, "columns"), panelsOf(key, "pairs")];
    return {
      inputs: [weights, dScores, out, query, dOut, seenOf(key), seenOf(value), ...panels],
      ...{ options, written: [0, 1, 2] },
    };
  },
};

const LOOPS: [name: string, loop: AnyLoop, caseOf: CaseOf][] = [
  ...(Object.keys(fused) as (keyof typeof fused)[])
    .filter((name) => !("onCpu" in fused[name]))
    .map((name): [string, AnyLoop, CaseOf] => [name, kernelOf(name), CASES[name]]),
  ...(Object.keys(attentionLoops) as (keyof typeof attentionLoops)[]).map(
    (name): [string, AnyLoop, CaseOf] => [
      name,
      attentionLoops[name] as unknown as AnyLoop,
      OF_ATTENTION[name],
    ],
  ),
  ...(Object.keys(attentionTiles) as (keyof typeof attentionTiles)[]).map(
    (name): [string, AnyLoop, CaseOf] => [name, attentionTiles[name] as unknown as AnyLoop, OF_TILES[name]],
  ),
];
const DTYPES = Object.keys(ROUNDING) as Scalars[];
const best = native.loopLevel();
const LEVELS = LOOP_LEVELS.slice(0, LOOP_LEVELS.indexOf(best) + 1);

afterAll(() => void native.loopLevel(best));

const sizes = fc.record({
  rows: fc.integer({ min: 1, max: 40 }),
  columns: fc.integer({ min: 1, max: 2100 }),
  extra: fc.integer({ min: 0, max: 4 }),
});

/** Compares a loop with its twin. */
function compare(loop: AnyLoop, made: KernelCase, dtype: Scalars): void {
  compareToTwin(loop, made, dtype, () => {
    loop(made.inputs, made.options);
    return (index) => made.inputs[index]!;
  });
}

describe.each(LEVELS)("at the level %s", (level) => {
  describe.each(DTYPES)("in %s", (dtype) => {
    test.each(LOOPS)("%s computes what its twin does", (_, loop, caseOf) => {
      native.loopLevel(level);
      const run = (some: Sizes, seed: number): void =>
        scope(() => {
          manualSeed(seed);
          compare(loop, caseOf(some, dtype), dtype);
        });
      run({ rows: 2, columns: 1, extra: 0 }, 1);
      run({ rows: 3, columns: 256, extra: 3 }, 2);
      run({ rows: 65, columns: 1027, extra: 1 }, 3); // enough for several threads
      if (loop.entry === "causal_softmax") run({ rows: 2, columns: 9000, extra: 1 }, 4); // longer than the loop's buffer
      fc.assert(fc.property(sizes, fc.nat(), run), { numRuns: 6 });
    });
  });

  test.each(["float16", "bfloat16"] as const)(
    "%s is rounded to the nearest even, as libtorch does",
    (dtype) => {
      scope(() => {
        native.loopLevel(level);
        // silu(x) * 1 of a large x is x; the values reach from subnormal numbers to beyond float16's largest
        const up = randn([40_000]).mul_(randn([40_000]).mul_(9).exp_());
        const rounded = up.to({ dtype });
        const gate = empty([40_000], { dtype }).fill_(1); // silu(1) = 0.731...
        const out = empty([40_000], { dtype });
        fused.swiglu([out, gate, rounded]);
        const right = rounded.to({ dtype: "float64" }).mul_(1 / (1 + Math.exp(-1)));
        const twin = right.to({ dtype: "float32" }).to({ dtype });
        const same = out.eq(twin).to({ dtype: "float32" }).mean().item();
        expect(same).toBeGreaterThan(0.999); // except where the last bit of float32 decides
      });
    },
  );
});

test.each(LEVELS)("at the level %s each NF4 code is the value that quantising has for it", (level) => {
  scope(() => {
    native.loopLevel(level);
    const codes = Uint8Array.from({ length: 8 }, (_, pair) => 16 * (2 * pair) + 2 * pair + 1); // 0 to 15, two per byte
    const [out, one] = [empty([1, 16]), ones([1])];
    const packed = [fromArray(codes, [8]), zeros([1], { dtype: "uint8" }), one, one] as const;
    fused.dequantizeNf4([out, ...packed], { offset: 0, width: 16, row: 0, column: 0 });
    expect([...out.toFloat32Array()]).toEqual(NF4_VALUES.map(Math.fround));
  });
});

test("a plan for the CPU allocates nothing in a kernel, nor does the kernel", () => {
  scope(() => {
    for (const device of ["meta", "cpu"] as const) {
      const [out, gate, up] = [1, 2, 3].map(() => empty([4096], { dtype: "bfloat16", device })) as [
        Tensor,
        Tensor,
        Tensor,
      ];
      resetPeak(device);
      planningFor({ device: "cpu" }, () => fused.swiglu([out, gate, up]));
      expect(memoryStats(device).peakBytes - memoryStats(device).liveBytes).toBe(0);
    }
  });
});

test("a call that no kernel takes is an error that says so", () => {
  const x = randn([4]);
  expect(() => native.runLoop("no_such", 6, "t", x.handle)).toThrow("no kernel of the CPU is called no_such");
  expect(() => native.runLoop("swiglu", 6, "t", x.handle)).toThrow("swiglu takes ttt, got t");
  expect(() => native.runLoop("swiglu", 7, "ttt", x.handle, x.handle, x.handle)).toThrow(
    /no scalars of Double/,
  );
  const meta = empty([4], { device: "meta" });
  expect(() => native.runLoop("swiglu", 6, "ttt", meta.handle, x.handle, x.handle)).toThrow(
    /a tensor of meta/,
  );
  meta.dispose();
  x.dispose();
});
