/** Tests that a checkpoint and an adapter are the same under all names that transformers gives them. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { readAdapter, writeAdapter } from "../../src/checkpoint/adapter/peft.ts";
import { openSafetensors, writeSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { openModelFolder } from "../../src/checkpoint/folder.ts";
import { mergeCheckpoint } from "../../src/checkpoint/merge.ts";
import { adapterFromLora, createLora, disposeLora, loraFromAdapter } from "../../src/models/lora.ts";
import { quantizeCheckpoint } from "../../src/models/precision/quantizeCheckpoint.ts";
import { disposeModel, loadModel } from "../../src/models/weights.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep } from "../../src/step/step.ts";
import { scope } from "../../src/torch/tensor.ts";
import { goldenFamily } from "./goldenFamily.ts";
import { runToEnd } from "./randomModel.ts";
import { golden } from "./shared.ts";

export interface GoldenNames {
  folder: string;
  /** The id of tokens of pictures. */
  image: number;
  /** A case with a picture. */
  knownCase: string;
  officialName(stored: string): string;
  /** Beginning of the names in adapters of older versions, before "layers.N". */
  olderPrefix: string;
  /** Whether a head that the file has is used even if the configuration ties it. */
  usesStoredHead?: boolean;
}

/** Describes the names of a family's checkpoints and adapters. */
export function describeGoldenNames({
  folder: data,
  image,
  knownCase,
  officialName,
  olderPrefix,
  usesStoredHead = false,
}: GoldenNames): void {
  const family = goldenFamily(data, image);
  const tiny = golden(`${data}/tiny`);
  const root = mkdtempSync(join(tmpdir(), "lorafit-names-"));
  afterAll(() => rmSync(root, { recursive: true }));

  const names = JSON.parse(readFileSync(golden(`${data}/tiny.names.json`), "utf8")) as {
    stored_names: string[];
    in_memory_names: string[];
  };

  /** Writes the tiny checkpoint as transformers 5 would, if it kept the names that it has in memory. */
  function newerCheckpoint(config: object = {}, hasHead = true): string {
    const folder = join(root, "newer");
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder);
    const json = JSON.parse(readFileSync(golden(`${data}/tiny.config_v5.json`), "utf8"));
    writeFileSync(join(folder, "config.json"), JSON.stringify({ ...json, ...config }));
    cpSync(join(tiny, "preprocessor_config.json"), join(folder, "preprocessor_config.json"));
    const { weights } = openModelFolder(tiny);
    const stored = new Map(names.in_memory_names.map((name) => [officialName(name), name]));
    scope(() => {
      const kept = weights.names.filter((name) => hasHead || !name.endsWith("lm_head.weight"));
      const tensors = kept.map((name) => [stored.get(name)!, weights.tensor(name)] as const);
      writeSafetensors(join(folder, "model.safetensors"), tensors, { format: "pt" });
    });
    weights.close();
    return folder;
  }

  async function lossOf(folder: string): Promise<number> {
    const model = loadModel(folder, { dtype: "float32", device: "cpu" });
    const batch = await family.batch(knownCase, model.config);
    const { loss } = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY));
    disposeModel(model);
    return loss;
  }

  it("every name in memory stands for one stored name", () => {
    expect(names.in_memory_names.map(officialName).sort()).toEqual([...names.stored_names].sort());
  });

  it("a checkpoint with the names and configuration of transformers 5 computes the same", async () => {
    expect(await lossOf(newerCheckpoint())).toBe(await lossOf(tiny));
  });

  it("merging and quantising read the newer names too", async () => {
    const newer = newerCheckpoint();
    for (const [from, to] of [
      [tiny, "old"],
      [newer, "new"],
    ] as const)
      await mergeCheckpoint(from, golden(`${data}/train/final_adapter`), join(root, `merged-${to}`));
    expect(await lossOf(join(root, "merged-new"))).toBe(await lossOf(join(root, "merged-old")));
    for (const base of ["nf4", "int8", "fp8"] as const) {
      await quantizeCheckpoint(newer, join(root, base), { base, headBase: "int8", visionBase: base });
      await quantizeCheckpoint(tiny, join(root, `old-${base}`), { base, headBase: "int8", visionBase: base });
      const loss = await lossOf(join(root, base));
      expect(loss).toBe(await lossOf(join(root, `old-${base}`)));
      expect(Math.abs(loss - family.cases.find(({ name }) => name === knownCase)!.loss)).toBeLessThan(0.5);
    }
  });

  it("a tied head is the embeddings, with or without a copy in the file", () => {
    for (const hasCopy of usesStoredHead ? [false] : [true, false]) {
      const folder = newerCheckpoint({ tie_word_embeddings: true }, hasCopy);
      const model = loadModel(folder, { dtype: "float32", device: "cpu" });
      expect(model.head).toBe(model.embeddings);
      disposeModel(model);
    }
    const folder = newerCheckpoint({ tie_word_embeddings: true }, false);
    const apart = loadModel(folder, {
      ...{ dtype: "float32", device: "cpu" },
      places: { layers: "device", embeddings: "host", head: "device", vision: "device" },
    });
    expect(apart.head).not.toBe(apart.embeddings);
    expect(apart.head).toMatchObject({ precision: "dense" });
    disposeModel(apart);
  });

  it("an adapter is read under the keys of any transformers, and written under the newest or older ones", () => {
    const folder = golden(`${data}/tiny_lora`);
    const weights = openSafetensors(join(folder, "adapter_model.safetensors"));
    const newest = "base_model.model.model.language_model.layers.";
    for (const [index, prefix] of [
      "base_model.model.model.layers.",
      "base_model.model.language_model.model.layers.",
    ].entries()) {
      const other = join(root, `adapter-${index}`);
      mkdirSync(other);
      cpSync(join(folder, "adapter_config.json"), join(other, "adapter_config.json"));
      scope(() => {
        const tensors = weights.names.map(
          (name) => [name.replace(newest, prefix), weights.tensor(name)] as const,
        );
        writeSafetensors(join(other, "adapter_model.safetensors"), tensors, { format: "pt" });
        const [one, two] = [readAdapter(folder), readAdapter(other)];
        expect([...two.modules.keys()].sort()).toEqual([...one.modules.keys()].sort());
      });
    }
    weights.close();
    const model = loadModel(tiny, { dtype: "float32", device: "cpu" });
    for (const [keys, prefix] of [
      ["newest", newest],
      ["older", `base_model.model.${olderPrefix}layers.`],
    ] as const) {
      const lora = scope(() =>
        loraFromAdapter(model.config, readAdapter(folder), { device: "cpu", gradients: "none", keys }),
      );
      const out = join(root, keys);
      scope(() => writeAdapter(out, adapterFromLora(lora, "tiny")));
      const written = openSafetensors(join(out, "adapter_model.safetensors"));
      expect(written.names.every((name) => name.startsWith(prefix))).toBe(true);
      written.close();
      disposeLora(lora);
    }
    disposeModel(model);
  });

  it("peers' pattern for the decoder of a model with a tower chooses all linears of the decoder", () => {
    const model = loadModel(tiny, { dtype: "float32", device: "cpu" });
    const lora = createLora(model.config, {
      ...{ rank: 2, alpha: 2, dropout: 0, rslora: false, seed: 0, device: "cpu", gradients: "none" },
      targets: ".*language_model.*\\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)",
    });
    expect(lora.modules.size).toBe(7 * model.config.layers);
    disposeLora(lora);
    disposeModel(model);
  });
}
