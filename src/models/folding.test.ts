import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { randomModel, relativeDifference, smallConfig } from "../../tests/helpers/randomModel.ts";
import { UserError } from "../errors.ts";
import { denseMatrix, frozenShape, frozenValues, relativeError } from "../nn/frozen/frozen.ts";
import { type QuantizedMatrix, quantize } from "../nn/frozen/quantized.ts";
import type { FrozenLinear } from "../nn/plora.ts";
import { memoryStats, resetPeak } from "../torch/device.ts";
import { dispose, scope, type Tensor } from "../torch/tensor.ts";
import { ON_DEVICE } from "./places.ts";
import { quantizeCheckpoint } from "./precision/quantizeCheckpoint.ts";
import { disposeModel, type LoadOptions, loadModel, type Model } from "./weights.ts";
import { XCOMPOSER_LINEARS } from "./xcomposer2/spec.ts";
import { TINY, writeTinyCheckpoint } from "./xcomposer2/tiny.ts";

const folder = mkdtempSync(join(tmpdir(), "lorafit-folding-"));
const path = (name: string): string => join(folder, name);
const OPTIONS = { dtype: "float32", device: "cpu" } as const;

beforeAll(() => writeTinyCheckpoint(path("tiny"), TINY));
afterAll(() => rmSync(folder, { recursive: true }));

/** W + p PB PA. */
function whole({ weight, plora }: FrozenLinear): Tensor {
  const { a, b, scale } = plora!;
  return frozenValues(weight).add(b.mm(a), { alpha: scale });
}

function forEachLinear(
  of: Model,
  other: Model,
  body: (linear: FrozenLinear, other: FrozenLinear) => void,
): void {
  of.layers.forEach(({ linears }, layer) => {
    for (const name of XCOMPOSER_LINEARS)
      scope(() => body(linears[name]!, other.layers[layer]!.linears[name]!));
  });
}

describe("a checkpoint loaded with PLoRA folded", () => {
  it("has W + p PB PA for each weight, and the branch takes off what was added", () => {
    const [plain, folded] = [
      loadModel(path("tiny"), OPTIONS),
      loadModel(path("tiny"), { ...OPTIONS, folded: true }),
    ];
    expect([plain.folded, folded.folded]).toEqual([false, true]);
    forEachLinear(plain, folded, (linear, other) => {
      expect(relativeDifference(frozenValues(other.weight), whole(linear))).toBeLessThan(1e-6);
      expect(relativeDifference(whole(other), frozenValues(linear.weight))).toBeLessThan(1e-6);
      expect(relativeDifference(frozenValues(other.weight), frozenValues(linear.weight))).toBeGreaterThan(
        0.001,
      );
    });
    for (const model of [plain, folded]) disposeModel(model);
  });

  it("takes as much memory, and no more while it loads", () => {
    const [plain, folded] = [false, true].map((isFolded) => {
      resetPeak("cpu");
      const before = memoryStats("cpu").liveBytes;
      const model = loadModel(path("tiny"), { ...OPTIONS, folded: isFolded });
      const { liveBytes, peakBytes } = memoryStats("cpu");
      disposeModel(model);
      return { live: liveBytes - before, peak: peakBytes - before };
    });
    expect(folded).toEqual(plain);
  });

  it("refuses weights on the host", () => {
    const places = { ...ON_DEVICE, layers: "host" } as const;
    expect(() => loadModel(path("tiny"), { ...OPTIONS, places, folded: true })).toThrow(
      "weights on the host",
    );
  });
});

describe.each(["int8", "nf4", "fp8"] as const)("a base in %s", (base) => {
  it("is quantised after folding", () => {
    const config = smallConfig({ hidden: 64, heads: 8, ffn: 192 });
    const load = (options: Partial<LoadOptions>): Model =>
      randomModel(config, { dtype: "float32", ...options });
    const [plain, folded] = [load({}), load({ base, folded: true })];
    forEachLinear(plain, folded, (linear, { weight, plora }) => {
      const wanted = whole(linear);
      const expected = quantize(wanted, base, { device: "cpu" });
      expect(frozenShape(weight)).toEqual(wanted.shape);
      expect(plora!.scale).toBe(-linear.plora!.scale);
      const errors = [weight as QuantizedMatrix, expected].map((matrix) => relativeError(wanted, matrix));
      expect(errors[0]).toBeLessThan(1.01 * errors[1]!);
      expect(relativeDifference(whole(linear), frozenValues(denseMatrix(wanted)))).toBe(0); // sources stay as they are
    });
    dispose([plain, folded]);
  });

  it("can't be folded where the checkpoint holds it so, but where it is read in full", async () => {
    await quantizeCheckpoint(path("tiny"), path(base), { base });
    const load = (options: Partial<LoadOptions>): Model =>
      loadModel(path(base), { ...OPTIONS, ...options, folded: true });
    const refused = expect(() => load({}));
    refused.toThrow(UserError);
    refused.toThrow(`stores in ${base}`);
    const [plain, folded] = [loadModel(path(base), { ...OPTIONS, base: "bf16" }), load({ base: "bf16" })];
    forEachLinear(plain, folded, (linear, other) => {
      expect(relativeDifference(frozenValues(other.weight), whole(linear))).toBeLessThan(1e-6);
    });
    for (const model of [plain, folded]) disposeModel(model);
  });
});
