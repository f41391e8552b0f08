import { describe, expect, it } from "vitest";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import type { Configuration } from "../../src/plan/dryRun/configuration.ts";
import { type CountedOp, dryRun, STEP_PHASES } from "../../src/plan/dryRun/dryRun.ts";
import { findDevice } from "../../src/plan/time/cards.ts";
import { opTimeMs, speedOf } from "../../src/plan/time/stepTime.ts";
import { Policy } from "../../src/step/policy.ts";
import { smallConfig } from "../helpers/randomModel.ts";

const model = smallConfig({ hidden: 256, headDim: 64, ffn: 512, layers: 2 });
const card = findDevice("h100-80gb");
const configuration: Configuration = {
  ...{ model, dtype: "bfloat16", target: card, policy: Policy.parse({}), mapsWeights: false },
  lora: { rank: 4, dropout: 0, targets: OFFICIAL_TARGETS },
  batch: { samples: 1, sampleTokens: 1500, pictures: [], labelTokens: 300 },
};

function opsOf(base?: Configuration["base"]): CountedOp[] {
  const { phases } = dryRun(base ? { ...configuration, base } : configuration);
  return phases.filter(({ name }) => STEP_PHASES.includes(name)).flatMap((phase) => phase.ops());
}

function sum(ops: readonly CountedOp[], of: (op: CountedOp) => number): number {
  return ops.reduce((total, op) => total + op.count * of(op), 0);
}

describe("what a base in fewer bits costs on a card", () => {
  const plain = opsOf();

  it.each([
    ["nf4", "dequantize_nf4", 0.5],
    ["int8", "dequantize_int8", 1],
  ] as const)("%s is dequantised before each product: codes read, bf16 written", (base, entry, codeBytes) => {
    const dequantizing = opsOf(base).filter(({ name }) => name === entry);
    const weights = model.layers * (model.hidden ** 2 + 3 * model.hidden * model.ffn); // at least wo, w1, w2 and w3
    const bytes = sum(dequantizing, (op) => op.bytes);
    expect(bytes).toBeGreaterThan(2 * weights * (codeBytes + 2)); // forward and backward
    expect(dequantizing.every(({ kind, stream }) => kind === "memory" && stream === "compute")).toBe(true);
  });

  it("fp8 multiplies at twice the rate, and reads and writes activations to make them fp8", () => {
    const ops = opsOf("fp8");
    const scaled = ops.filter(({ name }) => name === "_scaled_mm");
    const speed = speedOf(card);
    expect(scaled.length).toBeGreaterThan(0);
    for (const op of scaled) expect(op.dtype).toBe("float8_e4m3fn");
    expect(speed.flopsPerSecond.float8_e4m3fn! / speed.flopsPerSecond.bfloat16!).toBeCloseTo(2, 9);
    const memoryOf = (all: readonly CountedOp[]): CountedOp[] => all.filter(({ kind }) => kind === "memory");
    const quantizing = memoryOf(ops).filter(({ name }) => /^(multiplied_)?rows_fp8$/.test(name));
    const inputElements = 1500 * model.hidden; // elements of one product's input, which is read in bf16 and written in fp8
    expect(sum(quantizing, (op) => op.bytes)).toBeGreaterThan(2 * model.layers * 4 * 3 * inputElements);
    const memoryMs = (all: readonly CountedOp[]): number => sum(memoryOf(all), (op) => opTimeMs(op, speed));
    expect(memoryMs(ops)).toBeGreaterThan(memoryMs(plain));
  });
});
