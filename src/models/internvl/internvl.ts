/** InternVL3 and 3.5 as a model family. */
import { join } from "node:path";
import { z } from "zod";
import { type ChatMl, chatMl, INTERNVL_CHAT, INTERNVL_ORIGINAL_CHAT } from "../../data/samples/chatMl.ts";
import { loadBpeTokenizer } from "../../data/text/bpeTokenizer.ts";
import { readJson } from "../configJson.ts";
import type { Family } from "../family.ts";
import { LLAMA_ROLES, llamaQkv } from "../llamaDecoder.ts";
import { countedPositions } from "../positions.ts";
import { INTERNVL_FACTS } from "./facts.ts";
import { layoutOf, readInternVlConfig } from "./readConfig.ts";
import type { InternVlConfig } from "./spec.ts";
import { LINEARS, MODULES_IN_FULL, NAMES, officialName, tensors } from "./tensors.ts";
import { encodeInto, type Picture } from "./vision.ts";
import { assembleTower, type TowerWeights } from "./visionWeights.ts";

export const INTERNVL: Family<InternVlConfig> = {
  ...INTERNVL_FACTS,
  readConfig: readInternVlConfig,
  tokenizer: (folder) => loadBpeTokenizer(folder, (tokens) => chatMl(tokens, chatOf(folder))),
  tensors,
  names: NAMES,
  officialName,
  linears: LINEARS,
  roles: LLAMA_ROLES,
  qkv: llamaQkv,
  positions: countedPositions,
  penalisesPrompt: true,
  pictures: {
    assemble: assembleTower,
    encodeInto: (rows, weights, config, picture, options) =>
      encodeInto(rows, weights as TowerWeights, config, picture as Picture, options),
    unitsApart: true,
  },
  peft: {
    prefix: { newest: "model.language_model.", older: "language_model.model." },
    isSharedWithTower: true,
  },
  modulesInFull: MODULES_IN_FULL,
};

/** Each layout has the system turn of its own code. */
function chatOf(folder: string): ChatMl {
  const config = readJson(z.record(z.string(), z.unknown()), join(folder, "config.json")) ?? {};
  return layoutOf(config) === "hf" ? INTERNVL_CHAT : INTERNVL_ORIGINAL_CHAT;
}
