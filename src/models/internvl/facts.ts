/** InternVL as far as it is known without the engine. */
import type { FamilyFacts } from "../family.ts";
import { LLAMA_LINEARS, LLAMA_TARGETS } from "../llamaDecoder.ts";
import { type InternVlConfig, PRESETS } from "./spec.ts";

/** Longest samples in training. Source: arXiv:2504.10479 and arXiv:2508.18265. */
const TRAINED_TOKENS = 32_768;

/** Most tiles of a picture in training. Source: OpenGVLab/InternVL, max_dynamic_patch of its recipes. */
const TRAINED_TILES = 12;

export const INTERNVL_FACTS = {
  title: "InternVL3",
  recognises: ({ model_type: type }) => type === "internvl" || type === "internvl_chat",
  presets: PRESETS,
  published: (preset) => {
    const [version, size] = preset.replace("internvl", "").split("-") as [string, string];
    const name = `InternVL${version}-${size.toUpperCase()}`;
    const layout = version === "3" ? "hf" : "HF";
    return { name, repository: `OpenGVLab/${name.replace(".", "_")}-${layout}` };
  },
  trained: ({ maxPositions }) => ({
    maxLength: Math.min(maxPositions, TRAINED_TOKENS),
    pictureLimit: TRAINED_TILES,
  }),
  linearNames: LLAMA_LINEARS,
  targets: LLAMA_TARGETS,
  pictureRules: ({ pictures }) => pictures,
} as const satisfies FamilyFacts<InternVlConfig>;
