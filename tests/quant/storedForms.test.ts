import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { openSafetensors, writeSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { openModelFolder } from "../../src/checkpoint/folder.ts";
import { readModelConfig, tensorsOf } from "../../src/models/families.ts";
import { hasFullAbsmax, storedBases } from "../../src/models/precision/storedBases.ts";
import { disposeModel, loadModel } from "../../src/models/weights.ts";
import { frozenValues } from "../../src/nn/frozen/frozen.ts";
import { quantize } from "../../src/nn/frozen/quantized.ts";
import { storedShapes } from "../../src/nn/frozen/storedNames.ts";
import { quantizedTensors, readQuantized } from "../../src/nn/frozen/storedTensors.ts";
import { fromArray, fromBytes } from "../../src/torch/create.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { noticeStored } from "../../src/train/machine/compute.ts";
import { withOpened } from "../../src/train/machine/openedModel.ts";
import { relativeDifference } from "../helpers/randomModel.ts";
import { golden } from "../helpers/shared.ts";
import { matrixBytes } from "./matrixBytes.ts";

/** Made by bitsandbytes. scripts/makeNf4Fixture.py describes the contents. */
const fixture = openSafetensors(golden("nf4/forms.safetensors"));
const SHAPE = [130, 130] as const;
const forms = fixture.names
  .filter((name) => name.endsWith(".values"))
  .map((name) => name.replace(".values", ""));
afterAll(() => fixture.close());

describe("NF4 in the other forms that bitsandbytes writes", () => {
  it.each(forms)("is read: %s", (form) => {
    scope(() => {
      const name = `${form}.weight`;
      for (const [part, shape] of storedShapes(name, SHAPE, fixture))
        expect(fixture.entry(part).shape, part).toEqual(shape);
      const matrix = readQuantized(name, SHAPE, "nf4", fixture, { device: "cpu", copy: false });
      const expected = fixture.tensor(`${form}.values`);
      const values = frozenValues(matrix, expected);
      if (form.includes("absmax in full"))
        expect(relativeDifference(values, expected)).toBeLessThan(0.01); // 8 bits, relative to a block's largest number
      else expect(values.toBytes()).toEqual(expected.toBytes());
      expect(matrixBytes(matrix)).toBe(matrixBytes(quantize(expected, "nf4", { device: "cpu" })));
    });
  });
});

describe("a checkpoint that is quantised otherwise", () => {
  let root: string;
  beforeAll(() => {
    root = mkdtempSync(join(tmpdir(), "forms-"));
  });
  afterAll(() => rmSync(root, { recursive: true }));

  /** Writes a copy of the tiny checkpoint with some of its tensors replaced. */
  function changed(name: string, others: (tensor: (name: string) => Tensor) => [string, Tensor][]): string {
    const folder = join(root, name);
    cpSync(golden("tiny"), folder, {
      recursive: true,
      filter: (path) => !/safetensors/.test(path),
    });
    const { weights } = openModelFolder(golden("tiny"));
    scope(() => {
      const tensors = new Map(weights.names.map((each) => [each, weights.tensor(each)]));
      for (const [each, tensor] of others((wanted) => tensors.get(wanted)!)) tensors.set(each, tensor);
      writeSafetensors(join(folder, "model.safetensors"), [...tensors], { format: "pt" });
    });
    weights.close();
    return folder;
  }

  const FIRST = "model.layers.0.attention.wqkv.weight";

  it("has its embeddings and its head read in full where they are in NF4", () => {
    const names = ["model.tok_embeddings.weight", "output.weight"];
    const folder = changed("nf4-head", (tensor) =>
      names.flatMap((name) =>
        quantizedTensors(name, quantize(tensor(name), "nf4", { device: "cpu" }), "float32").map(
          ([part, stored]): [string, Tensor] => [part, stored],
        ),
      ),
    );
    const opened = openModelFolder(folder);
    expect(storedBases(tensorsOf(readModelConfig(opened)), opened.weights)).toEqual({
      base: undefined,
      headBase: undefined,
    });
    const model = loadModel(folder, { dtype: "float32", device: "cpu" });
    for (const matrix of [model.embeddings, model.head]) expect(matrix.precision).toBe("dense");
    scope(() => {
      const whole = openModelFolder(golden("tiny"));
      const off = relativeDifference(frozenValues(model.head), whole.weights.tensor("output.weight"));
      expect(off).toBeGreaterThan(0.01);
      expect(off).toBeLessThan(0.12); // the error of NF4
      whole.weights.close();
    });
    disposeModel(model);
    opened.weights.close();
  });

  it("is named where it is in FP4, in other blocks, or of another program", () => {
    const fp4 = changed("fp4", () => [
      [`${FIRST}.quant_state.bitsandbytes__fp4`, fromBytes(Uint8Array.of(0), [1], "uint8")],
    ]);
    expect(() => readModelConfig(openModelFolder(fp4))).toThrow(/wqkv.weight is quantised to FP4/);
    const blocks32 = changed("blocks-32", (tensor) => {
      const parts = quantizedTensors(FIRST, quantize(tensor(FIRST), "nf4", { device: "cpu" }), "float32");
      const twice = parts.find(([name]) => name.endsWith(".absmax"))![1].repeatInterleave(2);
      return [...parts, [`${FIRST}.absmax`, twice]] as [string, Tensor][];
    });
    expect(() => readModelConfig(openModelFolder(blocks32))).toThrow(/absmax: \[\d+\] instead of/);
    const gptq = changed("gptq", () => []);
    const config = JSON.parse(readFileSync(join(gptq, "config.json"), "utf8"));
    const said = { ...config, quantization_config: { quant_method: "gptq", bits: 4 } };
    writeFileSync(join(gptq, "config.json"), JSON.stringify(said));
    expect(() => readModelConfig(openModelFolder(gptq))).toThrow(/quantised by gptq/);
  });

  it("is said to be rounded where its absmax are in full", () => {
    const full = changed("full-absmax", (tensor) => {
      const matrix = quantize(tensor(FIRST), "nf4", { device: "cpu" });
      const blocks = tensor(FIRST).numel / 64;
      const kept = quantizedTensors(FIRST, matrix, "float32").filter(([name]) => !name.includes("nested"));
      return [...kept, [`${FIRST}.absmax`, fromArray(new Float32Array(blocks).fill(0.1), [blocks])]] as [
        string,
        Tensor,
      ][];
    });
    const { weights } = openModelFolder(full);
    expect(hasFullAbsmax(weights)).toBe(true);
    weights.close();
    const notices: string[] = [];
    for (const folder of [full, golden("tiny")])
      withOpened(folder, (opened) => noticeStored(opened, (text) => notices.push(text)));
    expect(notices).toEqual([expect.stringContaining("rounded to 8 bits")]);
  });
});
