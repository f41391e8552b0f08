import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { randomTensor, relativeDifference } from "../../../tests/helpers/randomModel.ts";
import { emptyOnHost } from "../../torch/copies.ts";
import { memoryStats, POOLS, resetPeak, setThreads } from "../../torch/device.ts";
import { type Device, dispose, keep, scope, type Tensor } from "../../torch/tensor.ts";
import type { Precision } from "./moments.ts";
import {
  type AdamW,
  createAdamW,
  disposeAdamW,
  gradientNorm,
  normOfGradients,
  type StateOptions,
  stepAdamW,
} from "./optimizer.ts";
import { momentTensors, restoreMoments } from "./savedState.ts";
import type { Parameter } from "./updateTile.ts";

setThreads(1);

const adam = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1 };
/** Small enough that most parameters have several. */
const TILE = 2048;
const STEPS = 3;

interface Shapes {
  shapes: [rows: number, columns: number][];
  gradients: "float32" | "bfloat16";
  /** Whether the factors lie on the host, with copies on the device. */
  copies: boolean;
  seed: number;
}
const shapes: fc.Arbitrary<Shapes> = fc.record({
  shapes: fc.array(fc.tuple(fc.integer({ min: 1, max: 40 }), fc.integer({ min: 1, max: 300 })), {
    minLength: 1,
    maxLength: 4,
  }),
  gradients: fc.constantFrom("float32", "bfloat16"),
  copies: fc.boolean(),
  seed: fc.integer({ min: 0, max: 1e6 }),
});
const COMBINATIONS = (["fp32", "8bit"] as const).flatMap((precision) =>
  (["device", "host"] as const).map((place) => ({ precision, place })),
);

describe("an update", () => {
  it("in tiles is the plain AdamW", () => {
    fc.assert(
      fc.property(shapes, (given) => {
        const [tiled, plain] = [run(given, { tileElements: TILE }), plainRun(given)];
        tiled.forEach((value, index) => {
          expect(worst(value, plain[index]!), `parameter ${index}`).toBeLessThan(1e-6);
        });
      }),
      { numRuns: 15 },
    );
  });

  it("gives the same bytes from the host as from the device, in either precision, with copies or without", () => {
    fc.assert(
      fc.property(shapes, fc.constantFrom<Precision>("fp32", "8bit"), (given, precision) => {
        const onDevice = run({ ...given, copies: false }, { precision, place: "device", tileElements: TILE });
        const onHost = run(given, { precision, place: "host", tileElements: TILE });
        expect(onHost).toEqual(onDevice);
      }),
      { numRuns: 25 },
    );
  });

  it("with 8-bit moments moves each factor by at most 5 % of the rate more or less a step, on average", () => {
    fc.assert(
      fc.property(shapes, (given) => {
        const fp32 = run(given, { tileElements: TILE });
        const codes = run(given, { precision: "8bit", tileElements: TILE });
        codes.forEach((value, index) => {
          const off = value.reduce((sum, x, at) => sum + Math.abs(x - fp32[index]![at]!), 0) / value.length;
          expect(off).toBeLessThan(0.05 * RATE * STEPS);
        });
      }),
      { numRuns: 15 },
    );
  });

  it.each(COMBINATIONS)(
    "$precision, $place takes on meta what it takes on the CPU, and gives it back",
    (how) => {
      fc.assert(
        fc.property(shapes, (given) => {
          expect(costOf(given, how, "cpu")).toEqual(costOf(given, how, "meta"));
        }),
        { numRuns: 15 },
      );
    },
  );

  it.each(COMBINATIONS)(
    "$precision, $place needs memory for a few tiles, whatever the size of the factors",
    (how) => {
      const big: Shapes = {
        shapes: [
          [64, 14336],
          [64, 14336],
        ],
        gradients: "bfloat16",
        copies: how.place === "host",
        seed: 1,
      };
      const { device } = costOf(big, how, "meta").update;
      expect(device.peakBytes).toBeLessThan(16 * 2 ** 20);
    },
  );
});

describe("the norm of gradients", () => {
  it.each(["float32", "bfloat16"] as const)(
    "of %s is that of all together, without a copy of all",
    (gradients) => {
      const given: Shapes = {
        shapes: [
          [700, 900],
          [300, 500],
        ],
        gradients,
        copies: false,
        seed: 4,
      };
      const parameters = makeParameters(given, "cpu");
      resetPeak("cpu");
      const before = memoryStats("cpu").liveBytes;
      const norm = gradientNorm(parameters);
      expect(memoryStats("cpu").peakBytes - before).toBeLessThan(1.1 * 2 ** 20);
      const squares = parameters.map(({ gradient }) =>
        gradient.toFloat32Array().reduce((sum, x) => sum + x * x, 0),
      );
      expect(norm / Math.sqrt(squares.reduce((sum, x) => sum + x, 0))).toBeCloseTo(1, 4);
      dispose(parameters);
    },
  );
});

describe("saved moments", () => {
  it("go back to the byte, into either place", () => {
    fc.assert(
      fc.property(shapes, fc.constantFrom<Precision>("fp32", "8bit"), (given, precision) => {
        withOptimizer(given, { precision, tileElements: TILE }, (from) => {
          withOptimizer(
            given,
            { precision, place: "host", tileElements: TILE },
            (into) => {
              scope(() => {
                for (const [, x] of momentTensors(into)) x.fill_(7);
              });
              expect(restoreMoments(into, fileOf(from))).toBe(precision);
              expect(bytesOf(into)).toEqual(bytesOf(from));
            },
            0,
          );
        });
      }),
      { numRuns: 15 },
    );
  });

  it.each(["device", "host"] as const)("become those of the other precision, %s", (place) => {
    fc.assert(
      fc.property(shapes, fc.constantFrom<Precision>("fp32", "8bit"), (given, precision) => {
        const other = precision === "fp32" ? "8bit" : "fp32";
        withOptimizer(given, { precision, tileElements: TILE }, (from) => {
          withOptimizer(
            given,
            { precision: other, place, tileElements: TILE },
            (into) => {
              const large = given.shapes.some(([rows, columns]) => rows * columns >= 4096);
              expect(restoreMoments(into, fileOf(from))).toBe(large ? precision : other);
              withOptimizer(
                given,
                { precision, tileElements: TILE },
                (back) => {
                  restoreMoments(back, fileOf(into));
                  momentTensors(back).forEach(([name, moment], index) => {
                    const before = momentTensors(from)[index]![1];
                    if (moment.dtype === "float32")
                      expect(relativeDifference(moment, before), name).toBeLessThan(0.01);
                  });
                },
                0,
              );
            },
            0,
          );
        });
      }),
      { numRuns: 10 },
    );
  });

  it.each(COMBINATIONS.flatMap((how) => (["fp32", "8bit"] as const).map((was) => ({ ...how, was }))))(
    "of $was are read into $precision, $place with the same peak on meta as on the CPU: a few tiles",
    ({ was, ...how }) => {
      fc.assert(
        fc.property(shapes, (given) => {
          const tableBytes = was === "8bit" && how.precision === "fp32" ? 2 * (1024 + 5 * 2 ** 16) : 0;
          const [cpu, meta] = (["cpu", "meta"] as const).map((device) =>
            costOfResuming(given, was, how, device),
          );
          expect(cpu).toEqual(meta);
          expect(cpu!.device.peakBytes).toBeLessThan(24 * TILE + tableBytes);
        }),
        { numRuns: 8 },
      );
    },
  );
});

const RATE = 1e-2;

/** Values after a few steps, each with gradients of its own. */
function run(given: Shapes, how: StateOptions): Float32Array[] {
  return withOptimizer(given, how, ({ parameters }) =>
    parameters.map(({ value, copy, gradient }) => {
      if (copy)
        expect(copy.toFloat32Array()).toEqual(scope(() => value.to({ dtype: "bfloat16" }).toFloat32Array()));
      expect(gradient.toFloat32Array().every((x) => x === 0)).toBe(true);
      return value.toFloat32Array();
    }),
  );
}

/** Runs the updates in float64, each parameter in one piece. */
function plainRun(given: Shapes): Float32Array[] {
  const parameters = makeParameters(given, "cpu");
  const results = parameters.map(({ value }, index) => {
    const x = Float64Array.from(value.toFloat32Array());
    const [mean, square] = [new Float64Array(x.length), new Float64Array(x.length)];
    for (let step = 1; step <= STEPS; step++) {
      const gradient = scope(() => gradientOf(given, index, step, "cpu").toFloat32Array());
      gradient.forEach((g, at) => {
        const scaled = Math.fround(g * Math.fround(0.5));
        x[at]! *= 1 - RATE * adam.weightDecay;
        mean[at] = adam.beta1 * mean[at]! + (1 - adam.beta1) * scaled;
        square[at] = adam.beta2 * square[at]! + (1 - adam.beta2) * scaled ** 2;
        const root = Math.sqrt(square[at]! / (1 - adam.beta2 ** step)) + adam.epsilon;
        x[at]! -= (RATE * mean[at]!) / (1 - adam.beta1 ** step) / root;
      });
    }
    return Float32Array.from(x);
  });
  dispose(parameters);
  return results;
}

function withOptimizer<T>(given: Shapes, how: StateOptions, body: (optimizer: AdamW) => T, steps = STEPS): T {
  const parameters = makeParameters(given, "cpu");
  const optimizer = createAdamW(parameters, adam, how);
  try {
    for (let step = 1; step <= steps; step++) {
      parameters.forEach(({ gradient }, index) => {
        scope(() => gradient.copy_(gradientOf(given, index, step, "cpu")));
      });
      stepAdamW(optimizer, RATE, 0.5);
    }
    return body(optimizer);
  } finally {
    disposeAdamW(optimizer);
    dispose(parameters);
  }
}

function makeParameters({ shapes, gradients, copies, seed }: Shapes, device: Device): Parameter[] {
  const make = (shape: number[], index: number): Parameter => {
    const drawn = randomTensor(shape, seed + index, { dtype: "float32", device });
    const gradient = gradientOf({ seed, gradients, shapes }, index, 0, device);
    if (!copies) return { name: `p${index}`, value: drawn, gradient };
    const value = emptyOnHost(shape, { device });
    return { name: `p${index}`, value: value.copy_(drawn), copy: drawn.to({ dtype: "bfloat16" }), gradient };
  };
  return keep(scope(() => shapes.map(make)));
}

function gradientOf(
  { seed, gradients, shapes }: Omit<Shapes, "copies">,
  index: number,
  step: number,
  device: Device,
): Tensor {
  return randomTensor(shapes[index]!, seed + 100 * step + index, { dtype: gradients, device, scale: 0.01 });
}

interface PoolCost {
  peakBytes: number;
  liveBytes: number;
  peakByCategory: Record<string, number>;
}

/** Bytes of each pool above those before, at their peak and afterwards. */
function measured(device: "cpu" | "meta", body: () => void): Record<(typeof POOLS)[number], PoolCost> {
  const before = POOLS.map((pool) => memoryStats(device, pool));
  for (const pool of POOLS) resetPeak(device, pool);
  body();
  const costs = POOLS.map((pool, index) => {
    const { peakBytes, liveBytes, peakByCategory } = memoryStats(device, pool);
    const { liveBytes: beforeBytes, liveByCategory } = before[index]!;
    const categories = Object.entries(peakByCategory).map(
      ([name, bytes]) => [name, bytes - liveByCategory[name as keyof typeof liveByCategory]] as const,
    );
    return [
      pool,
      {
        peakBytes: peakBytes - beforeBytes,
        liveBytes: liveBytes - beforeBytes,
        peakByCategory: Object.fromEntries(categories),
      },
    ] as const;
  });
  return Object.fromEntries(costs) as Record<(typeof POOLS)[number], PoolCost>;
}

function costOf(given: Shapes, how: StateOptions, device: "cpu" | "meta") {
  const parameters = makeParameters({ ...given, copies: given.copies && how.place === "host" }, device);
  let optimizer: AdamW | undefined;
  const created = measured(device, () => {
    optimizer = createAdamW(parameters, adam, how);
  });
  const norm = measured(device, () => scope(() => void normOfGradients(parameters)));
  const update = measured(device, () => stepAdamW(optimizer!, RATE, 0.5));
  for (const { liveBytes } of [norm, update].flatMap(Object.values<PoolCost>)) expect(liveBytes).toBe(0);
  disposeAdamW(optimizer!);
  dispose(parameters);
  return { created, norm, update };
}

function costOfResuming(given: Shapes, was: Precision, how: StateOptions, device: "cpu" | "meta") {
  const parameters = makeParameters({ ...given, copies: false }, device);
  const from = createAdamW(parameters, adam, { precision: was });
  const into = createAdamW(parameters, adam, { ...how, tileElements: TILE });
  const cost = measured(device, () => void restoreMoments(into, fileOf(from)));
  disposeAdamW(from);
  disposeAdamW(into);
  dispose(parameters);
  return cost;
}

function fileOf(optimizer: AdamW): Parameters<typeof restoreMoments>[1] {
  const tensors = new Map(momentTensors(optimizer));
  return { has: (name) => tensors.has(name), tensor: (name) => tensors.get(name)!.detach() };
}

function bytesOf(optimizer: AdamW): [name: string, bytes: string][] {
  return momentTensors(optimizer).map(([name, x]) => [name, Buffer.from(x.toBytes()).toString("base64")]);
}

function worst(a: Float32Array, b: Float32Array): number {
  return a.reduce((most, x, at) => Math.max(most, Math.abs(x - b[at]!)), 0);
}
