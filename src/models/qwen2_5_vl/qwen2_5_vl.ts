/** Qwen2.5-VL as a model family. */
import { chatMl, QWEN2_5_VL_CHAT } from "../../data/samples/chatMl.ts";
import { loadBpeTokenizer } from "../../data/text/bpeTokenizer.ts";
import type { Family } from "../family.ts";
import { LLAMA_ROLES, llamaQkv } from "../llamaDecoder.ts";
import { encodeInto, type Picture } from "../patchTower/tower.ts";
import { placedPositions } from "../positions.ts";
import { QWEN2_5_VL_FACTS } from "./facts.ts";
import { readQwen2_5VlConfig } from "./readConfig.ts";
import type { Qwen2_5VlConfig } from "./spec.ts";
import { LINEARS, MODULES_IN_FULL, NAMES, officialName, tensors } from "./tensors.ts";
import { assembleTower, type TowerWeights } from "./visionWeights.ts";

export const QWEN2_5_VL: Family<Qwen2_5VlConfig> = {
  ...QWEN2_5_VL_FACTS,
  readConfig: readQwen2_5VlConfig,
  tokenizer: (folder) => loadBpeTokenizer(folder, (tokens) => chatMl(tokens, QWEN2_5_VL_CHAT)),
  tensors,
  names: NAMES,
  officialName,
  linears: LINEARS,
  roles: LLAMA_ROLES,
  qkv: llamaQkv,
  positions: placedPositions,
  penalisesPrompt: true,
  pictures: {
    assemble: assembleTower,
    encodeInto: (rows, weights, config, picture, options) =>
      encodeInto(rows, weights as TowerWeights, config, picture as Picture, options),
  },
  peft: { prefix: { newest: "model.language_model.", older: "model." }, isSharedWithTower: true },
  modulesInFull: MODULES_IN_FULL,
};
