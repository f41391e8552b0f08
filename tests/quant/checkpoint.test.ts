import { cpSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { writeSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { openModelFolder } from "../../src/checkpoint/folder.ts";
import { UserError } from "../../src/errors.ts";
import { readModelConfig, tensorsOf } from "../../src/models/families.ts";
import { quantizeCheckpoint } from "../../src/models/precision/quantizeCheckpoint.ts";
import { storedBases } from "../../src/models/precision/storedBases.ts";
import { disposeModel, type LoadOptions, loadModel, type Model } from "../../src/models/weights.ts";
import { XCOMPOSER_LINEARS } from "../../src/models/xcomposer2/spec.ts";
import { visionLayerPrefix } from "../../src/models/xcomposer2/tensors.ts";
import { TINY, writeTinyCheckpoint } from "../../src/models/xcomposer2/tiny.ts";
import { type FrozenMatrix, frozenValues } from "../../src/nn/frozen/frozen.ts";
import { quantize } from "../../src/nn/frozen/quantized.ts";
import { QUANTIZED_PRECISIONS, type QuantizedPrecision } from "../../src/nn/frozen/storedNames.ts";
import { quantizedTensors } from "../../src/nn/frozen/storedTensors.ts";
import { Policy, placesOf } from "../../src/step/policy.ts";
import { evalStep } from "../../src/step/step.ts";
import { memoryStats } from "../../src/torch/device.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { randomBatch, runToEnd, visionOf } from "../helpers/randomModel.ts";

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
    const result = await quantizeCheckpoint(dense, place(base), { ...all(base), report: true });
    expect(memoryStats("cpu").liveBytes).toBe(beforeBytes);
    const [stored, made] = [load(base, {}), load("dense", all(base))];
    scope(() => {
      const pairs = stored.layers.flatMap((layer, index) =>
        XCOMPOSER_LINEARS.map(
          (name) => [layer.linears[name]!.weight, made.layers[index]!.linears[name]!.weight] as const,
        ),
      );
      for (const [one, other] of [
        ...pairs,
        [stored.head, made.head],
        [stored.embeddings, made.embeddings],
        ...visionMatrices(stored).map((matrix, index) => [matrix, visionMatrices(made)[index]!] as const),
      ] as const) {
        expect(one.precision).toBe(other.precision);
        expect(one.precision).not.toBe("dense");
        expect(Buffer.compare(frozenValues(one).toBytes(), frozenValues(other).toBytes())).toBe(0);
      }
      const first = made.layers[0]!.linears["attention.wqkv"]!.weight;
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
    expect(bits).toBeLessThan(base === "nf4" ? 4.5 : 8.3); // in a matrix this small, the maps and the state are a large share
    folder.weights.close();
  });

  it("has a loss near that of the full weights, whether streamed or resident", () => {
    const loss = lossOf("dense", {});
    const bound = { int8: 0.001, nf4: 0.03, fp8: 0.006 }[base]; // measured 0.0002, 0.0094 and 0.0019
    const quantised = lossOf(base, {});
    expect(Math.abs(quantised - loss)).toBeLessThan(bound);
    const onHost = { weights: { source: "streamed" }, embeddings: "host", head: "host", vision: "host" };
    expect(lossOf(base, {}, onHost)).toBe(quantised);
    expect(lossOf("dense", all(base), onHost)).toBe(quantised);
  });

  it("comes back in full where that is asked for, but in no other precision", () => {
    const full = { base: "bf16", headBase: "bf16", visionBase: "bf16" } as const;
    expect(lossOf(base, full)).toBeCloseTo(lossOf(base, {}), 4);
    const other = base === "int8" ? "nf4" : "int8";
    expect(() => load(base, { base: other })).toThrow(UserError);
    expect(() => load(base, { visionBase: other })).toThrow(`stores its vision tower in ${base}`);
  });
});

describe("a vision tower in another precision than the decoder", () => {
  const mixed = { base: "nf4", visionBase: "int8" } as const;

  it("is written and read, in a folder that says that it is for lorafit alone", async () => {
    await quantizeCheckpoint(dense, place("mixed"), mixed);
    expect(lossOf("mixed", {})).toBe(lossOf("dense", mixed));
    expect(methodOf("mixed")).toBe("lorafit");
    const folder = openModelFolder(place("mixed"));
    expect(storedBases(tensorsOf(readModelConfig(folder)), folder.weights)).toEqual(mixed);
    expect(folder.weights.has("vision_proj.0.SCB")).toBe(true);
    expect(folder.weights.has(`${visionLayerPrefix(1)}mlp.fc2.SCB`)).toBe(true);
    folder.weights.close();
  });

  it("is left as it is where nothing is said of it, which bitsandbytes can read", async () => {
    await quantizeCheckpoint(dense, place("decoder"), { base: "nf4" });
    const folder = openModelFolder(place("decoder"));
    expect(storedBases(tensorsOf(readModelConfig(folder)), folder.weights)).toEqual({ base: "nf4" });
    folder.weights.close();
    expect(methodOf("decoder")).toBe("bitsandbytes");
    expect(configOf("decoder").quantization_config.llm_int8_skip_modules).toContain("vit");
    expect(configOf("nf4").quantization_config.llm_int8_skip_modules).not.toContain("vit");
  });

  it("is read in full where its linears are stored in several ways, so that all layers are alike", async () => {
    const folder = openModelFolder(place("decoder"));
    const target = join(root, "partly");
    cpSync(place("decoder"), target, { recursive: true, filter: (path) => !path.includes("safetensors") });
    const one = `${visionLayerPrefix(1)}mlp.fc1.weight`;
    scope(() => {
      const tensors = folder.weights.names.flatMap((name): (readonly [string, Tensor])[] => {
        const tensor = folder.weights.tensor(name);
        if (name !== one) return [[name, tensor]];
        return quantizedTensors(name, quantize(tensor, "int8", { device: "cpu" }), "float32") as [
          string,
          Tensor,
        ][];
      });
      writeSafetensors(join(target, "model.safetensors"), tensors, { format: "pt" });
    });
    folder.weights.close();
    const model = load("partly", {});
    expect(new Set(visionMatrices(model).map(({ precision }) => precision))).toEqual(new Set(["dense"]));
    disposeModel(model);
  });
});

function configOf(name: string) {
  return JSON.parse(readFileSync(join(place(name), "config.json"), "utf8"));
}

function methodOf(name: string): string {
  return configOf(name).quantization_config.quant_method;
}

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
      if (told.length === 8) interruption.abort(); // while the second layer's file is written
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

/**
 * Returns the precisions with which everything that can be quantised is quantised: the tower like the
 * decoder, the head in int8.
 */
function all(base: QuantizedPrecision) {
  return { base, headBase: "int8", visionBase: base } as const;
}

function visionMatrices(model: Model): FrozenMatrix[] {
  const { layers, projector } = visionOf(model).weights;
  const linears = layers.flatMap(({ qkv, out, fc1, fc2 }) => [...qkv, out, fc1, fc2]);
  return [...linears, ...projector].map(({ weight }) => weight);
}

function load(name: string, options: Partial<LoadOptions>) {
  return loadModel(place(name), { dtype: "float32", device: "cpu", ...options });
}

function lossOf(name: string, options: Partial<LoadOptions>, wanted = {}): number {
  const policy = Policy.parse({ headGroups: 2, ...wanted });
  const model = load(name, { ...options, places: placesOf(policy) });
  try {
    const batch = randomBatch(model.config, [{ textTokens: 200, images: 1 }]);
    return runToEnd(evalStep(model, undefined, batch, policy)).loss;
  } finally {
    disposeModel(model);
  }
}
