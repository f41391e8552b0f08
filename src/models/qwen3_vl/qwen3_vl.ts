/** The dense Qwen3-VL models as a model family. */
import { chatMl, QWEN3_VL_CHAT } from "../../data/samples/chatMl.ts";
import { loadBpeTokenizer } from "../../data/text/bpeTokenizer.ts";
import type { Family } from "../family.ts";
import { LLAMA_ROLES, llamaQkv } from "../llamaDecoder.ts";
import { encodeInto, type Picture } from "../patchTower/tower.ts";
import { placedPositions } from "../positions.ts";
import { QWEN3_VL_FACTS } from "./facts.ts";
import { readQwen3VlConfig } from "./readConfig.ts";
import type { Qwen3VlConfig } from "./spec.ts";
import { LINEARS, MODULES_IN_FULL, NAMES, tensors } from "./tensors.ts";
import { assembleTower, type TowerWeights } from "./visionWeights.ts";

export const QWEN3_VL: Family<Qwen3VlConfig> = {
  ...QWEN3_VL_FACTS,
  readConfig: readQwen3VlConfig,
  tokenizer: (folder) => loadBpeTokenizer(folder, (tokens) => chatMl(tokens, QWEN3_VL_CHAT)),
  tensors,
  names: NAMES,
  linears: LINEARS,
  roles: LLAMA_ROLES,
  qkv: llamaQkv,
  positions: placedPositions,
  penalisesPrompt: true,
  pictures: {
    assemble: assembleTower,
    encodeInto: (rows, weights, config, picture, options) =>
      encodeInto(rows, weights as TowerWeights, config, picture as Picture, options),
    deepstackLayers: ({ vision }) => vision.deepstackLayers.length,
  },
  peft: { prefix: { newest: "model.language_model.", older: "model." }, isSharedWithTower: false },
  modulesInFull: MODULES_IN_FULL,
};
