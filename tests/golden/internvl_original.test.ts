/** A checkpoint in OpenGVLab's own layout computes what the same weights in that of transformers do. */
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { writeSafetensors } from "../../src/checkpoint/files/safetensors.ts";
import { openModelFolder } from "../../src/checkpoint/folder.ts";
import { mergeCheckpoint } from "../../src/checkpoint/merge.ts";
import { tokenizerOf } from "../../src/models/families.ts";
import type { InternVlConfig } from "../../src/models/internvl/spec.ts";
import { quantizeCheckpoint } from "../../src/models/precision/quantizeCheckpoint.ts";
import { disposeModel, loadModel } from "../../src/models/weights.ts";
import { DEFAULT_POLICY } from "../../src/step/policy.ts";
import { evalStep } from "../../src/step/step.ts";
import { cat } from "../../src/torch/create.ts";
import { scope, type Tensor } from "../../src/torch/tensor.ts";
import { goldenFamily } from "../helpers/goldenFamily.ts";
import { runToEnd } from "../helpers/randomModel.ts";
import { golden } from "../helpers/shared.ts";

const family = goldenFamily("internvl_hf", 924);
const tiny = golden("internvl_hf/tiny");
const root = mkdtempSync(join(tmpdir(), "lorafit-internvl-"));
afterAll(() => rmSync(root, { recursive: true }));

/** Names of transformers, and what OpenGVLab's code calls the same tensors. */
const RENAMED: [RegExp, string][] = [
  [/^vision_tower\.embeddings\.cls_token$/, "vision_model.embeddings.class_embedding"],
  [/^vision_tower\.embeddings\.position_embeddings$/, "vision_model.embeddings.position_embedding"],
  [/^vision_tower\.embeddings\.patch_embeddings\.projection\./, "vision_model.embeddings.patch_embedding."],
  [/^vision_tower\.encoder\.layer\./, "vision_model.encoder.layers."],
  [/\.attention\.projection_layer\./, ".attn.proj."],
  [/\.layernorm_before\./, ".norm1."],
  [/\.layernorm_after\./, ".norm2."],
  [/\.lambda_(\d)$/, ".ls$1"],
  [/^multi_modal_projector\.layer_norm\./, "mlp1.0."],
  [/^multi_modal_projector\.linear_1\./, "mlp1.1."],
  [/^multi_modal_projector\.linear_2\./, "mlp1.3."],
];

/** Writes the tiny checkpoint in the other layout; changes: to its config.json. */
function originalCheckpoint(name: string, changes: object = {}): string {
  const folder = join(root, name);
  mkdirSync(folder);
  const { text_config, vision_config, ...top } = JSON.parse(
    readFileSync(join(tiny, "config.json"), "utf8"),
  ) as Record<string, Record<string, unknown>>;
  const { use_qk_norm, attention_bias, image_size, patch_size, ...vision } = vision_config!;
  const config = {
    ...{ model_type: "internvl_chat", architectures: ["InternVLChatModel"], template: "internvl2_5" },
    ...{ downsample_ratio: top.downsample_ratio, select_layer: -1, ps_version: "v2", force_image_size: 112 },
    ...{ dynamic_image_size: true, use_thumbnail: true, min_dynamic_patch: 1, max_dynamic_patch: 6 },
    llm_config: text_config,
    vision_config: {
      ...vision,
      ...{ model_type: "intern_vit_6b", qk_normalization: use_qk_norm, qkv_bias: attention_bias },
      ...{ image_size: (image_size as number[])[0], patch_size: (patch_size as number[])[0] },
    },
    ...changes,
  };
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  writeFileSync(join(folder, "preprocessor_config.json"), JSON.stringify({ size: 448, crop_size: 448 }));
  cpSync(join(tiny, "tokenizer.json"), join(folder, "tokenizer.json"));
  const { weights } = openModelFolder(tiny);
  scope(() => {
    const stored = weights.names.flatMap((stored): [string, Tensor][] => {
      const [, part] = /\.attention\.([qkv])_proj\./.exec(stored) ?? [];
      if (part === undefined) return [[originalOf(stored), weights.tensor(stored)]];
      if (part !== "q") return [];
      const parts = ["q", "k", "v"].map((as) => weights.tensor(stored.replace("q_proj", `${as}_proj`)));
      return [[originalOf(stored.replace("attention.q_proj", "attn.qkv")), cat(parts, 0)]];
    });
    writeSafetensors(join(folder, "model.safetensors"), stored, { format: "pt" });
  });
  weights.close();
  return folder;
}

function originalOf(name: string): string {
  return RENAMED.reduce((done, [pattern, to]) => done.replace(pattern, to), name);
}

async function lossOf(folder: string): Promise<number> {
  const model = loadModel(folder, { dtype: "float32", device: "cpu" });
  const { layout } = model.config as InternVlConfig;
  const batch = await family.batch("c2_img_one_tile", model.config);
  const { loss } = runToEnd(evalStep(model, undefined, batch, DEFAULT_POLICY));
  disposeModel(model);
  expect(layout).toBe(folder === tiny ? "hf" : "original");
  return loss;
}

it("has the loss of the other layout, and its own limit of tiles", async () => {
  const folder = originalCheckpoint("plain");
  expect(Math.abs((await lossOf(folder)) - (await lossOf(tiny)))).toBeLessThan(1e-6);
  const model = loadModel(folder, { dtype: "float32", device: "cpu" });
  expect((model.config as InternVlConfig).pictures).toMatchObject({ maxTiles: 6, tilePixels: 112 });
  disposeModel(model);
});

it("is merged and quantised under its own names", async () => {
  const folder = originalCheckpoint("source");
  const adapter = golden("internvl_hf/train/final_adapter");
  await mergeCheckpoint(folder, adapter, join(root, "merged"));
  const { loss_merged } = JSON.parse(readFileSync(golden("internvl_hf/train/merged.json"), "utf8"));
  expect(Math.abs((await lossOf(join(root, "merged"))) - loss_merged)).toBeLessThan(1e-5);
  const official = family.cases.find(({ name }) => name === "c2_img_one_tile")!.loss;
  for (const base of ["nf4", "int8", "fp8"] as const) {
    await quantizeCheckpoint(folder, join(root, base), { base, visionBase: base });
    expect(Math.abs((await lossOf(join(root, base))) - official)).toBeLessThan(0.5);
  }
});

it("puts the system turn of OpenGVLab's code first", async () => {
  const tokenizer = (await tokenizerOf(originalCheckpoint("chat")))!;
  const { inputIds } = tokenizer.dialogue.encode([{ role: "user", text: "Hi" }]);
  expect(tokenizer.decode(inputIds)).toMatch(/^<\|im_start\|>system\n你是书生·万象.*<\|im_end\|>\n<\|im_start\|>user\nHi/);
});

it("refuses models that compute something else", () => {
  for (const [at, [changes, why]] of [
    [{ ps_version: "v1" }, "ps_version"],
    [{ use_thumbnail: false }, "use_thumbnail"],
    [{ select_layer: -4 }, "select_layer"],
    [{ llm_config: { model_type: "internlm2" } }, 'the decoder is of type "internlm2"'],
  ].entries() as ArrayIterator<[number, [object, string]]>) {
    const folder = originalCheckpoint(`refused-${at}`, changes);
    expect(() => loadModel(folder, { dtype: "float32", device: "cpu" })).toThrow(why);
  }
});
