/** A checkpoint of Qwen3-VL is read from whatever files it has, or refused if they contradict each other. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { openFamilyFolder, readModelConfig } from "../../src/models/families.ts";
import type { Qwen3VlConfig } from "../../src/models/qwen3_vl/spec.ts";
import { golden } from "../helpers/shared.ts";

type Json = Record<string, unknown>;

const root = mkdtempSync(join(tmpdir(), "lorafit-qwen3-config-"));
afterAll(() => rmSync(root, { recursive: true }));

let folders = 0;

/** Reads the tiny checkpoint with other files. */
function configWith(files: Record<string, (json: Json) => Json>): Qwen3VlConfig {
  const folder = join(root, `${folders++}`);
  cpSync(golden("qwen3_vl/tiny"), folder, { recursive: true });
  for (const [name, change] of Object.entries(files)) {
    const file = join(folder, name);
    writeFileSync(file, JSON.stringify(change(JSON.parse(readFileSync(file, "utf8")))));
  }
  const opened = openFamilyFolder(folder);
  try {
    return readModelConfig(opened) as Qwen3VlConfig;
  } finally {
    opened.weights.close();
  }
}

const part = (name: string, values: Json) => (json: Json) => ({
  ...json,
  [name]: { ...(json[name] as Json), ...values },
});

it("sizes, axes and limits of pixels are those of the files", () => {
  const config = configWith({});
  expect(config).toMatchObject({ headDim: 32, heads: 6, kvHeads: 2, hasHeadNorms: true, tiedHead: false });
  expect(config.axisOfPair).toEqual([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2, 0]);
  expect(config.vision).toMatchObject({ positionSide: 48, deepstackLayers: [0, 2] });
  expect(config.pictures).toMatchObject({ patchPixels: 16, minPixels: 4096 });
  const edges = { shortest_edge: 8192, longest_edge: 16_384 };
  const own = configWith({ "preprocessor_config.json": (json) => ({ ...json, size: edges }) });
  expect(own.pictures).toMatchObject({ minPixels: 8192, maxPixels: 16_384 });
});

it.each([
  [part("vision_config", { deepstack_visual_indexes: [2, 0] }), "do not ascend"],
  [part("vision_config", { deepstack_visual_indexes: [0, 4] }), "do not ascend within 4 layers"],
  [part("vision_config", { deepstack_visual_indexes: [0, 1, 2, 3] }), "more than the 3 layers"],
  [part("vision_config", { deepstack_visual_indexes: [1] }), "deepstack_merger_list"],
  [part("vision_config", { num_position_embeddings: 2300 }), "is not a square"],
  [part("vision_config", { hidden_act: "gelu" }), "hidden_act"],
  [part("vision_config", { num_heads: 3 }), "4 x 3 heads do not divide"],
  [part("vision_config", { out_hidden_size: 64 }), "out_hidden_size 64"],
  [part("text_config", { attention_bias: true }), "attention_bias"],
  [part("text_config", { head_dim: 16 }), "mrope_section"],
  [part("text_config", { rope_scaling: { mrope_section: [6, 5, 5] } }), "mrope_interleaved"],
])("files that contradict one another are refused: %#", (change, why) => {
  expect(() => configWith({ "config.json": change })).toThrow(why);
});
