import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, describe, expect, it } from "vitest";
import { floats, keepStride, readFixture } from "../../tests/helpers/fixtures.ts";
import { golden } from "../../tests/helpers/shared.ts";
import { pickled, torchZip } from "../../tests/helpers/torchFile.ts";
import { UserError } from "../errors.ts";
import { fromArray, ones, zeros } from "../torch/create.ts";
import { liveTensors, memoryStats, resetPeak } from "../torch/device.ts";
import { scope } from "../torch/tensor.ts";
import { writeAdapter } from "./adapter/peft.ts";
import { writeSafetensors } from "./files/safetensors.ts";
import { openModelFolder } from "./folder.ts";
import { type MergeProgress, mergeCheckpoint } from "./merge.ts";

const root = mkdtempSync(join(tmpdir(), "merge-"));
afterAll(() => rmSync(root, { recursive: true }));

const WO = "model.layers.0.attention.wo.weight";

/** A model of one linear, [2, 3] of ones, and an adapter of rank 1 that adds [[1, 2, 3], [2, 4, 6]] * 10. */
function modelAndAdapter(name: string, dtype: "float32" | "bfloat16" = "float32"): [string, string] {
  const [model, adapter] = [join(root, `${name}-model`), join(root, `${name}-adapter`)];
  mkdirSync(model);
  writeFileSync(join(model, "config.json"), JSON.stringify({ torch_dtype: dtype, hidden_size: 3 }));
  scope(() => {
    const count = zeros([2], { dtype: "int64" });
    writeSafetensors(join(model, "model.safetensors"), [
      [WO, ones([2, 3], { dtype })],
      ["count", count],
    ]);
    writeAdapter(adapter, {
      config: { r: 1, loraAlpha: 10, loraDropout: 0, targetModules: [], useRslora: false, baseModel: "" },
      prefix: "model.",
      modules: new Map([
        [
          "layers.0.attention.wo",
          { a: fromArray([1, 2, 3], [1, 3]), b: fromArray([1, 2], [2, 1]), scale: 10 },
        ],
      ]),
    });
  });
  return [model, adapter];
}

describe("the merged checkpoint", () => {
  it("has the weights that PEFT merged, and all others to the bit", async () => {
    const out = join(root, "golden");
    await mergeCheckpoint(golden("tiny"), golden("train/final_adapter"), out, { shardBytes: 1e6 });
    const expected = readFixture(golden("train/merged_c2_img_1x1.safetensors"));
    const merged = openModelFolder(out).weights;
    const base = openModelFolder(golden("tiny")).weights;
    expect([...merged.names].sort()).toEqual([...base.names].sort());
    scope(() => {
      for (const name of ["model.layers.0.attention.wqkv.weight", "model.layers.2.feed_forward.w2.weight"]) {
        const weight = merged.tensor(name);
        const { stride } = expected[`merged.${name}`]!;
        const kept = keepStride(weight.toFloat32Array(), [...weight.shape], stride);
        expect(kept).toMatchArray(floats(expected, `merged.${name}`), { atol: 1e-6 });
      }
      const target = /layers\.\d+\.(attention\.w|feed_forward\.w)[^.]*\.weight$/;
      for (const name of base.names) {
        const same = Buffer.from(merged.tensor(name).toBytes()).equals(base.tensor(name).toBytes());
        expect(same, name).toBe(!target.test(name));
      }
    });
    merged.close();
    base.close();
  });

  it("has factors of any linear layer in it, also of PLoRA and the vision tower", async () => {
    const names = [
      "model.layers.0.attention.wqkv.Plora_B.weight",
      "vit.vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight",
    ];
    const [adapter, out] = [join(root, "any-adapter"), join(root, "any-out")];
    const base = openModelFolder(golden("tiny")).weights;
    scope(() => {
      const modules = names.map((name) => {
        const [rows, columns] = base.entry(name).shape as [number, number];
        const module = name.replace(/^model\.(?=layers)/, "").replace(/\.weight$/, "");
        return [module, { a: ones([1, columns]), b: ones([rows, 1]), scale: 2 }] as const;
      });
      const config = {
        r: 1,
        loraAlpha: 2,
        loraDropout: 0,
        targetModules: [],
        useRslora: false,
        baseModel: "",
      };
      writeAdapter(adapter, { config, prefix: "model.", modules: new Map(modules) });
    });
    await mergeCheckpoint(golden("tiny"), adapter, out);
    const merged = openModelFolder(out).weights;
    scope(() => {
      for (const name of names) {
        const difference = merged.tensor(name).sub(base.tensor(name)).toFloat32Array();
        for (const value of difference) expect(value).toBeCloseTo(2, 5);
      }
    });
    merged.close();
    base.close();
  });

  it("is a folder as Hugging Face has it: shards of the size, index, configuration and small files", async () => {
    const [model, adapter] = modelAndAdapter("files");
    const target = join(root, "blob");
    writeFileSync(target, "linked");
    for (const name of ["tokenizer.model", "modeling.py"]) writeFileSync(join(model, name), name);
    for (const name of ["pytorch_model.bin", "pytorch_model.bin.index.json"])
      writeFileSync(join(model, name), "");
    symlinkSync(target, join(model, "tokenizer_config.json"));
    mkdirSync(join(model, "sub"));
    const out = join(root, "files-out");
    await mergeCheckpoint(model, adapter, out, { shardBytes: 20 });
    expect(readdirSync(out).sort()).toEqual([
      "config.json",
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
      "modeling.py",
      "tokenizer.model",
      "tokenizer_config.json",
    ]);
    expect(readFileSync(join(out, "tokenizer_config.json"), "utf8")).toBe("linked");
    expect(readFileSync(join(out, "config.json"), "utf8")).toBe(
      readFileSync(join(model, "config.json"), "utf8"),
    );
  });

  it("keeps each weight's type, or takes the one asked for, in weights and in config.json", async () => {
    const [model, adapter] = modelAndAdapter("dtypes", "bfloat16");
    for (const dtype of [undefined, "float32"] as const) {
      const out = join(root, `dtypes-${dtype}`);
      await mergeCheckpoint(model, adapter, out, dtype ? { dtype } : {});
      const { config, weights } = openModelFolder(out);
      expect(config.torch_dtype).toBe(dtype ?? "bfloat16");
      expect([weights.entry(WO).dtype, weights.entry("count").dtype]).toEqual([dtype ?? "bfloat16", "int64"]);
      scope(() => expect([...weights.tensor(WO).toFloat32Array()]).toEqual([11, 21, 31, 21, 41, 61]));
      weights.close();
    }
  });

  it("may come from pickles with transposed weights", async () => {
    const [model, adapter] = modelAndAdapter("pickles");
    rmSync(join(model, "model.safetensors"));
    const storage = pickled.storage("FloatStorage", "0", 6);
    const turned = pickled.tensor(storage, { shape: [2, 3], strides: [1, 2] });
    const data = new Uint8Array(Float32Array.of(1, 4, 2, 5, 3, 6).buffer);
    writeFileSync(
      join(model, "pytorch_model.bin"),
      torchZip(pickled.dict({ [WO]: turned, copy: turned }), { "0": data }),
    );
    const out = join(root, "pickles-out");
    await mergeCheckpoint(model, adapter, out);
    const { weights } = openModelFolder(out);
    scope(() => {
      expect([...weights.tensor(WO).toFloat32Array()]).toEqual([11, 22, 33, 24, 45, 66]);
      expect([...weights.tensor("copy").toFloat32Array()]).toEqual([1, 2, 3, 4, 5, 6]);
    });
    weights.close();
  });
});

describe("merging", () => {
  it("holds a few tensors at a time, not the model, and gives all back", async () => {
    const { weights } = openModelFolder(golden("tiny"));
    const bytes = weights.names.map((name) => weights.entry(name).bytes);
    weights.close();
    const largestBytes = Math.max(...bytes);
    const modelBytes = bytes.reduce((sum, each) => sum + each, 0);
    const before = { live: memoryStats("cpu").liveBytes, tensors: liveTensors() };
    resetPeak("cpu");
    await mergeCheckpoint(golden("tiny"), golden("tiny_lora"), join(root, "peak"), { dtype: "bfloat16" });
    const peakBytes = memoryStats("cpu").peakBytes - before.live;
    expect(peakBytes).toBeGreaterThan(0);
    expect(peakBytes).toBeLessThanOrEqual(4 * largestBytes);
    expect(peakBytes).toBeLessThan(modelBytes / 4);
    expect({ live: memoryStats("cpu").liveBytes, tensors: liveTensors() }).toEqual(before);
  });

  it("tells how far it is, up to the whole", async () => {
    const [model, adapter] = modelAndAdapter("progress");
    const told: MergeProgress[] = [];
    await mergeCheckpoint(model, adapter, join(root, "progress-out"), { onProgress: (at) => told.push(at) });
    expect(told).toEqual([
      { doneBytes: 16, totalBytes: 40 },
      { doneBytes: 40, totalBytes: 40 },
    ]);
  });

  it("leaves nothing behind when it is stopped or fails", async () => {
    const [model, adapter] = modelAndAdapter("stopped");
    const control = new AbortController();
    const before = liveTensors();
    const out = join(root, "stopped-out");
    const stopped = mergeCheckpoint(model, adapter, out, {
      onProgress: () => control.abort(),
      signal: control.signal,
    });
    await expect(stopped).rejects.toThrow("aborted");
    expect(readdirSync(root).filter((name) => name.includes("stopped-out"))).toEqual([]);
    expect(liveTensors()).toBe(before);
  });

  it("refuses an adapter of another model and a place that is taken, and writes nothing", async () => {
    const [model, adapter] = modelAndAdapter("refused");
    const out = join(root, "refused-out");
    const other = mergeCheckpoint(model, golden("tiny_lora"), out);
    await expect(other).rejects.toThrow(UserError);
    await expect(other).rejects.toThrow("its factors do not fit");
    expect(existsSync(out)).toBe(false);
    await expect(mergeCheckpoint(model, adapter, model)).rejects.toThrow("is not an empty folder");
    const file = join(root, "a-file");
    copyFileSync(golden("tiny/config.json"), file);
    await expect(mergeCheckpoint(model, adapter, file)).rejects.toThrow("is not an empty folder");
    await expect(mergeCheckpoint(join(root, "none"), adapter, out)).rejects.toThrow("not a model folder");
  });
});
