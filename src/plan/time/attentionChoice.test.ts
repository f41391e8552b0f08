import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, describe, expect, test } from "vitest";
import type { CardKernel } from "../../nn/attention/cardKernels.ts";
import { kernelsOf } from "../../nn/attention/kernels.ts";
import { OutOfMemoryError } from "../../torch/device.ts";
import {
  type AttentionUse,
  type Bench,
  chooseAttention,
  inWords,
  kernelTrial,
  knownChoice,
  type Lengths,
  settledAttention,
  type Trial,
} from "./attentionChoice.ts";
import { findDevice } from "./cards.ts";

const use: AttentionUse = {
  config: { heads: 8, kvHeads: 2, headDim: 16 },
  dtype: "bfloat16",
  tokens: 3000,
  packed: false,
};
const folder = mkdtempSync(join(tmpdir(), "lorafit-attention-"));
afterEach(() => rmSync(folder, { recursive: true, force: true })); // so that no choice is remembered

/** Returns a bench whose kernels take the given times, or fail. It records which kernels were tried. */
function benchOf(times: Partial<Record<CardKernel, number | string | Trial>>) {
  const asked: [CardKernel, Lengths][] = [];
  const bench: Bench = {
    card: "a card, driver 1",
    kernels: ["flash", "cudnn", "efficient", "products"],
    folder,
    trial: (kernel, lengths) => {
      asked.push([kernel, lengths]);
      const time = times[kernel];
      if (typeof time === "number") return { ms: time, difference: 0.004 };
      if (typeof time === "object") return time;
      throw new Error(time ?? "not to be had\nbelow");
    },
  };
  return { bench, asked };
}

describe("the kernel of a run", () => {
  test("is the fastest over the lengths that stand for it", () => {
    const { bench, asked } = benchOf({ flash: 2, cudnn: 1.5, efficient: 9, products: 1 });
    const { choice, isNew } = chooseAttention(use, bench);
    expect([choice.kernel, isNew]).toEqual(["cudnn", true]);
    expect(asked.filter(([kernel]) => kernel === "flash").map(([, lengths]) => lengths)).toEqual([
      [4096],
      [1024],
    ]);
    expect(inWords(choice)).toBe("flash 4.00 ms, cudnn 3.00 ms, efficient 18.00 ms");
  });

  test("is timed once for a card and a class of shapes, and anew for others", () => {
    const first = benchOf({ flash: 2, cudnn: 1, efficient: 3 });
    chooseAttention(use, first.bench);
    const { bench, asked } = benchOf({ flash: 1, cudnn: 2, efficient: 3 });
    expect(chooseAttention({ ...use, tokens: 4096 }, bench)).toMatchObject({
      choice: { kernel: "cudnn" },
      isNew: false,
    });
    expect(asked).toEqual([]);
    const others: [AttentionUse, Bench][] = [
      [{ ...use, tokens: 4097 }, bench],
      [{ ...use, packed: true }, bench],
      [{ ...use, dtype: "float16" }, bench],
      [use, { ...bench, card: "a card, driver 2" }],
    ];
    for (const [other, on] of others)
      expect(chooseAttention(other, on)).toMatchObject({ choice: { kernel: "flash" }, isNew: true });
    expect(asked.some(([, lengths]) => lengths.length === 8)).toBe(true);
  });

  test("is known to plans for the very card, as long as driver and libtorch are those that it was timed with", () => {
    const { bench } = benchOf({ flash: 2, cudnn: 1, efficient: 3 });
    const machine = { driver: "580.1", libtorch: "2.11.0", folder };
    const known = (asked: AttentionUse, card: string, more = {}) =>
      knownChoice(asked, findDevice(card), { ...machine, ...more })?.kernel;
    expect(known(use, "rtx-4090")).toBeUndefined();
    const card = "NVIDIA GeForce RTX 4090, driver 580.1, libtorch 2.11.0";
    chooseAttention(use, { ...bench, card });
    chooseAttention(use, { ...bench, card: card.replace("4090", "of no table") });
    expect(known(use, "rtx-4090")).toBe("cudnn");
    expect(known({ ...use, tokens: 4096 }, "rtx-4090")).toBe("cudnn");
    expect(known({ ...use, tokens: 4097 }, "rtx-4090")).toBeUndefined();
    expect(known({ ...use, packed: true }, "rtx-4090")).toBeUndefined();
    for (const other of [{ driver: "580.2" }, { libtorch: "2.12.0" }])
      expect(known(use, "rtx-4090", other)).toBeUndefined();
    expect(known(use, "rtx-4080")).toBeUndefined();
  });

  test("is none that fails, or computes something else, however fast", () => {
    const wrong = { ms: 0.1, difference: Number.NaN };
    const { choice } = chooseAttention(
      use,
      benchOf({ cudnn: wrong, efficient: 5, flash: "no such kernel" }).bench,
    );
    expect(choice).toEqual({
      kernel: "efficient",
      timings: {
        flash: { failed: "no such kernel" },
        cudnn: { failed: "its gradients are off by NaN" },
        efficient: { ms: 10 },
      },
    });
    expect(chooseAttention({ ...use, packed: true }, benchOf({}).bench).choice.kernel).toBe("flash");
  });

  test("is timed anew where the file is cut off, or names a kernel that the card does not have", () => {
    const { bench } = benchOf({ flash: 1, cudnn: 2, efficient: 3 });
    chooseAttention(use, bench);
    expect(chooseAttention(use, { ...bench, kernels: ["cudnn", "efficient"] })).toMatchObject({
      choice: { kernel: "cudnn" },
      isNew: true,
    });
    writeFileSync(join(folder, "attention.json"), '{"a card');
    expect(chooseAttention(use, bench)).toMatchObject({ choice: { kernel: "flash" }, isNew: true });
  });

  test("is not remembered where memory ran out while it was timed", () => {
    const { bench } = benchOf({ flash: 1 });
    const short: Bench = {
      ...bench,
      trial: () => {
        throw new OutOfMemoryError(1, 1, 1, 0, 0, "");
      },
    };
    expect(() => chooseAttention(use, short)).toThrow(OutOfMemoryError);
    expect(chooseAttention(use, bench).isNew).toBe(true);
  });

  test("is the CPU's own on the CPU, which nobody times", () => {
    const told: string[] = [];
    for (const wanted of ["measured", "flash"] as const) {
      expect(settledAttention(wanted, "cpu", use, (text) => told.push(text))).toBe(wanted);
    }
    expect(told).toEqual([]);
  });
});

test("cards have the kernels of their capability, the rule's first", () => {
  expect(kernelsOf(90, "bfloat16")).toEqual(["flash", "cudnn", "efficient", "products"]);
  expect(kernelsOf(75, "float16")).toEqual(["efficient", "products"]);
  expect(kernelsOf(90, "float32")).toEqual(["efficient"]);
});

test("a trial times a kernel on samples of the lengths, and compares it with the rule's", () => {
  const { ms, difference } = kernelTrial("cpu", use, { kernel: "products", rule: "flash" }, [40, 24]);
  expect(ms).toBeGreaterThan(0);
  expect(difference).toBe(0); // on the CPU both are its own kernel
});
