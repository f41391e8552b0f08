/** InternLM-XComposer2 as a model family. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../data/text/tokenizer.ts";
import type { Family } from "../family.ts";
import { readXComposerConfig } from "./readConfig.ts";
import { PRESETS, type XComposerConfig } from "./spec.ts";
import { LINEARS, MODULES_IN_FULL, NAMES, qkv, ROLES, tensors } from "./tensors.ts";
import { encodeImageInto } from "./vision.ts";
import { assembleVision } from "./visionWeights.ts";

/**
 * Most tiles of a picture in the training of InternLM-XComposer2-4KHD: HD-55. Source: arXiv:2404.06512,
 * section 3.
 */
const TRAINED_TILES = 55;

export const XCOMPOSER: Family<XComposerConfig> = {
  recognises: ({ model_type: type }) => type === undefined || /^internlm(2|_?xcomposer2)$/.test(String(type)),
  readConfig: readXComposerConfig,
  tokenizer: async (folder) =>
    existsSync(join(folder, "tokenizer.model")) ? loadTokenizer(folder) : undefined,
  presets: PRESETS,
  trained: ({ maxPositions }) => ({ maxLength: maxPositions, pictureLimit: TRAINED_TILES }),
  tensors,
  names: NAMES,
  linears: LINEARS,
  roles: ROLES,
  qkv,
  pictures: { rules: () => ({ form: "hdTiles" }), assemble: assembleVision, encodeInto: encodeImageInto },
  modulesInFull: MODULES_IN_FULL,
};
