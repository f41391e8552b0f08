/** InternLM-XComposer2 as a model family. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { loadTokenizer } from "../../data/text/tokenizer.ts";
import type { Family } from "../family.ts";
import { countedPositions } from "../positions.ts";
import { XCOMPOSER_FACTS } from "./facts.ts";
import { readXComposerConfig } from "./readConfig.ts";
import type { XComposerConfig } from "./spec.ts";
import { LINEARS, MODULES_IN_FULL, NAMES, qkv, ROLES, tensors } from "./tensors.ts";
import { encodeImageInto, type Picture } from "./vision.ts";
import { assembleVision, type VisionWeights } from "./visionWeights.ts";
import { encodeWholeInto, type WholePicture } from "./wholePicture.ts";

const encodeInto: Family<XComposerConfig>["pictures"]["encodeInto"] = (
  tokens,
  weights,
  config,
  picture,
  options,
) => {
  const vision = weights as VisionWeights;
  return config.vision.isWhole
    ? encodeWholeInto(tokens, vision, config, picture as WholePicture, options)
    : encodeImageInto(tokens, vision, config, picture as Picture, options);
};

export const XCOMPOSER: Family<XComposerConfig> = {
  ...XCOMPOSER_FACTS,
  readConfig: readXComposerConfig,
  tokenizer: async (folder) =>
    existsSync(join(folder, "tokenizer.model")) ? loadTokenizer(folder) : undefined,
  tensors,
  names: NAMES,
  linears: LINEARS,
  roles: ROLES,
  qkv,
  positions: countedPositions,
  pictures: { assemble: assembleVision, encodeInto, unitsApart: true },
  peft: { prefix: { newest: "model.", older: "model." }, isSharedWithTower: false },
  modulesInFull: MODULES_IN_FULL,
};
