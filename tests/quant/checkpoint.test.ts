import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openModelFolder } from "../../src/checkpoint/folder.ts";
import { UserError } from "../../src/errors.ts";
import { quantizeCheckpoint } from "../../src/models/quantizeCheckpoint.ts";
import { LINEAR_NAMES } from "../../src/models/spec.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/tiny.ts";
import { disposeModel, type LoadOptions, loadModel } from "../../src/models/weights.ts";
import { frozenValues } from "../../src/nn/frozen.ts";
import { QUANTIZED_PRECISIONS } from "../../src/nn/quantizedNames.ts";
import { Policy, placesOf } from "../../src/step/policy.ts";
import { evalStep } from "../../src/step/step.ts";
import { memoryStats } from "../../src/torch/device.ts";
import { scope } from "../../src/torch/tensor.ts";
import { randomBatch, runToEnd } from "../randomModel.ts";

const root = mkdtempSync(join(tmpdir(), "quantize-"));
const dense = join(root, "dense");
const place = (base: string): string => join(root, base);
beforeAll(() =>
  writeTinyCheckpoint(dense, { ...TINY, hidden: 128, heads: 4, kvHeads: 2, layers: 2, ffn: 192 }),
);
afterAll(() => rmSync(root, { recursive: true }));

describe.each(QUANTIZED_PRECISIONS)("a checkpoint written in %s", (base) => {
  it("loads by itself to the weights that loading with --base gives", async () => {
    const beforeBytes = memoryStats("cpu").liveBytes;
    const result = await quantizeCheckpoint(dense, place(base), { base, headBase: "int8", report: true });
    expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
    const [stored, made] = [load(base, {}), load("dense", { base, headBase: "int8" })];
    scope(() => {
      const pairs = stored.layers.flatMap((layer, index) =>
        LINEAR_NAMES.map(
          (name) => [layer.linears[name].weight, made.layers[index]!.linears[name].weight] as const,
        ),
      );
      for (const [one, other] of [
        ...pairs,
        [stored.head, made.head],
        [stored.embeddings, made.embeddings],
      ] as const) {
        expect(one.precision).toBe(other.precision);
        expect(one.precision).not.toBe("dense");
        expect(Buffer.compare(frozenValues(one).toBytes(), frozenValues(other).toBytes())).toBe(0);
      }
      const first = made.layers[0]!.linears["attention.wqkv"].weight;
      const error = result.matrices.find(({ name }) => name.includes("layers.0.attention.wqkv"))!
        .relativeError!;
      const full = openModelFolder(dense);
      const source = full.weights.tensor("model.layers.0.attention.wqkv.weight");
      const difference = frozenValues(first).sub(source).square().sum().item() / source.square().sum().item();
      full.weights.close();
      expect(error).toBeCloseTo(Math.sqrt(difference), 6);
    });
    disposeModel(stored);
    disposeModel(made);
  });

  it("is as small as it says, and says in config.json what it is", async () => {
    const config = JSON.parse(readFileSync(join(place(base), "config.json"), "utf8"));
    const method = base === "fp8" ? "lorafit" : "bitsandbytes";
    expect(config.quantization_config.quant_method).toBe(method);
    const folder = openModelFolder(place(base));
    const names = folder.weights.names.filter((name) => /layers\.0\.attention\.wqkv\./.test(name));
    const bytes = names
      .filter((name) => !name.includes("Plora"))
      .map((name) => folder.weights.entry(name).bytes);
    const bits = (8 * bytes.reduce((sum, part) => sum + part, 0)) / (256 * 128);
    expect(bits).toBeLessThan(base === "nf4" ? 4.5 : 8.3); // the maps and the state weigh on a matrix as small as this
    folder.weights.close();
  });

  it("has a loss near that of the full weights, whether streamed or resident", () => {
    const loss = lossOf("dense", {});
    const bound = { int8: 0.001, nf4: 0.03, fp8: 0.006 }[base]; // measured 0.0002, 0.0094 and 0.0019
    const quantised = lossOf(base, {});
    expect(Math.abs(quantised - loss)).toBeLessThan(bound);
    const onHost = { weights: { source: "streamed" }, embeddings: "host", head: "host" };
    expect(lossOf(base, {}, onHost)).toBe(quantised);
    expect(lossOf("dense", { base, headBase: "int8" }, onHost)).toBe(quantised);
  });

  it("comes back in full where that is asked for, but in no other precision", () => {
    expect(lossOf(base, { base: "bf16", headBase: "bf16" })).toBeCloseTo(lossOf(base, {}), 4);
    const other = base === "int8" ? "nf4" : "int8";
    expect(() => load(base, { base: other })).toThrow(UserError);
  });
});

it("refuses a checkpoint that is quantised already, and a folder that has files", async () => {
  await expect(quantizeCheckpoint(place("nf4"), join(root, "twice"), { base: "nf4" })).rejects.toThrow(
    /quantised already/,
  );
  expect(existsSync(join(root, "twice"))).toBe(false);
  await expect(quantizeCheckpoint(dense, place("nf4"), { base: "nf4" })).rejects.toThrow(
    /not an empty folder/,
  );
});

it("tells how far it is, and leaves nothing behind where it is stopped", async () => {
  const told: number[] = [];
  const interruption = new AbortController();
  const stopped = quantizeCheckpoint(dense, join(root, "stopped"), {
    base: "nf4",
    signal: interruption.signal,
    onProgress: ({ doneBytes, totalBytes }) => {
      told.push(doneBytes / totalBytes);
      if (told.length === 8) interruption.abort(); // within the second layer's file
    },
  });
  await expect(stopped).rejects.toThrow(/aborted/);
  expect(readdirSync(root).filter((name) => name.includes("stopped"))).toEqual([]);
  expect(told).toHaveLength(8);
  told.length = 0;
  const onProgress = (at: { doneBytes: number; totalBytes: number }): number =>
    told.push(at.doneBytes / at.totalBytes);
  await quantizeCheckpoint(dense, join(root, "told"), { base: "nf4", onProgress });
  expect(told).toEqual([...told].sort((a, b) => a - b));
  expect(told.at(-1)).toBe(1);
});

function load(name: string, options: Partial<LoadOptions>) {
  return loadModel(place(name), { dtype: "float32", device: "cpu", ...options });
}

function lossOf(name: string, options: Partial<LoadOptions>, wanted = {}): number {
  const policy = Policy.parse({ headGroups: 2, ...wanted });
  const model = load(name, { ...options, places: placesOf(policy) });
  try {
    const batch = randomBatch(model.config, [{ textTokens: 200 }]);
    return runToEnd(evalStep(model, undefined, batch, policy)).loss;
  } finally {
    disposeModel(model);
  }
}
