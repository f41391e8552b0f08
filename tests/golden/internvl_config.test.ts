/** A checkpoint of InternVL is read from whatever files it has, or refused if they contradict each other. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { openFamilyFolder, readModelConfig } from "../../src/models/families.ts";
import type { InternVlConfig } from "../../src/models/internvl/spec.ts";
import { golden } from "../helpers/shared.ts";

type Json = Record<string, unknown>;

const root = mkdtempSync(join(tmpdir(), "lorafit-internvl-config-"));
afterAll(() => rmSync(root, { recursive: true }));

let folders = 0;

/** Reads the tiny checkpoint with other files; undefined: the file is not there. */
function configWith(files: Record<string, ((json: Json) => Json) | undefined>): InternVlConfig {
  const folder = join(root, `${folders++}`);
  cpSync(golden("internvl_hf/tiny"), folder, { recursive: true });
  for (const [name, change] of Object.entries(files)) {
    const file = join(folder, name);
    if (change) writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, "utf8")))));
    else rmSync(file);
  }
  const opened = openFamilyFolder(folder);
  try {
    return readModelConfig(opened) as InternVlConfig;
  } finally {
    opened.weights.close();
  }
}

const part = (name: string, values: Json) => (json: Json) => ({
  ...json,
  [name]: { ...(json[name] as Json), ...values },
});

it("the limit of tiles comes from either file that transformers writes", () => {
  const own = configWith({ "preprocessor_config.json": (json) => ({ ...json, max_patches: 6 }) });
  expect(own.pictures.maxTiles).toBe(6);
  const size = { height: 112, width: 112 };
  const nested = configWith({
    "preprocessor_config.json": undefined,
    "processor_config.json": (json) => ({ ...json, image_processor: { max_patches: 5, size } }),
  });
  expect(nested.pictures).toMatchObject({ maxTiles: 5, minTiles: 1, tilePixels: 112, tileTokens: 16 });
  expect(configWith({ "preprocessor_config.json": undefined }).pictures.maxTiles).toBe(12);
});

it("sizes may be a number, and a head of its own size is read", () => {
  const square = configWith({ "config.json": part("vision_config", { image_size: 112, patch_size: 14 }) });
  expect(square.vision).toMatchObject({ tilePixels: 112, patchPixels: 14 });
  expect(configWith({ "config.json": part("text_config", { head_dim: 32 }) }).headDim).toBe(32);
});

it.each([
  [{ "config.json": (json: Json) => ({ ...json, image_seq_length: 256 }) }, "image_seq_length is 256"],
  [{ "config.json": part("vision_config", { image_size: [112, 224] }) }, "image_size"],
  [{ "config.json": part("vision_config", { image_size: 126 }) }, "no whole number of tokens"],
  [{ "config.json": part("vision_config", { num_attention_heads: 3 }) }, "3 heads do not divide"],
  [{ "config.json": part("vision_config", { use_mean_pooling: false }) }, "use_mean_pooling"],
  [{ "config.json": part("vision_config", { use_qk_norm: true }) }, "q_norm"],
  [{ "config.json": part("text_config", { head_dim: 64 }) }, "q_proj"],
  [{ "config.json": part("text_config", { model_type: "qwen3" }) }, "self_attn"],
  [{ "config.json": part("text_config", { model_type: "qwen3_moe" }) }, 'of type "qwen3_moe"'],
  [{ "config.json": part("text_config", { use_sliding_window: true }) }, "use_sliding_window"],
  [{ "config.json": (json: Json) => ({ ...json, vision_feature_layer: -2 }) }, "vision_feature_layer"],
  [{ "preprocessor_config.json": (json: Json) => ({ ...json, size: { height: 448, width: 448 } }) }, "tiles of 448 pixels"],
] as const)("files that contradict one another are refused: %#", (files, why) => {
  expect(() => configWith(files)).toThrow(why);
});
