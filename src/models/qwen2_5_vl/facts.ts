/** Qwen2.5-VL as far as it is known without the engine. */
import type { FamilyFacts } from "../family.ts";
import { LLAMA_LINEARS, LLAMA_TARGETS } from "../llamaDecoder.ts";
import { PRESETS, type Qwen2_5VlConfig } from "./spec.ts";

/** Longest samples in training. Source: arXiv:2502.13923, table 2. */
const TRAINED_TOKENS = 32_768;

/** Pixels of the largest pictures that published checkpoints are set for. */
const TRAINED_PIXELS = 12_845_056;

export const QWEN2_5_VL_FACTS = {
  title: "Qwen2.5-VL",
  recognises: ({ model_type: type }) => type === "qwen2_5_vl",
  presets: PRESETS,
  published: (preset) => {
    const name = `Qwen2.5-VL-${preset.split("-").at(-1)!.toUpperCase()}`;
    return { name, repository: `Qwen/${name}-Instruct` };
  },
  trained: ({ maxPositions }) => ({
    maxLength: Math.min(maxPositions, TRAINED_TOKENS),
    pictureLimit: TRAINED_PIXELS,
  }),
  linearNames: LLAMA_LINEARS,
  targets: LLAMA_TARGETS,
  pictureRules: ({ pictures }) => pictures,
} as const satisfies FamilyFacts<Qwen2_5VlConfig>;
