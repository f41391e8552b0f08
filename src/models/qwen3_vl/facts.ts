/** Qwen3-VL as far as it is known without the engine. */
import type { FamilyFacts } from "../family.ts";
import { LLAMA_LINEARS, LLAMA_TARGETS } from "../llamaDecoder.ts";
import { PRESETS, type Qwen3VlConfig } from "./spec.ts";

/** Longest samples in training. Source: arXiv:2511.21631. */
const TRAINED_TOKENS = 262_144;

/** Pixels of the largest pictures that published checkpoints are set for. */
const TRAINED_PIXELS = 16_777_216;

export const QWEN3_VL_FACTS = {
  title: "Qwen3-VL",
  recognises: ({ model_type: type }) => type === "qwen3_vl",
  presets: PRESETS,
  published: (preset) => {
    const name = `Qwen3-VL-${preset.split("-").at(-1)!.toUpperCase()}`;
    return { name, repository: `Qwen/${name}-Instruct` };
  },
  trained: ({ maxPositions }) => ({
    maxLength: Math.min(maxPositions, TRAINED_TOKENS),
    pictureLimit: TRAINED_PIXELS,
  }),
  linearNames: LLAMA_LINEARS,
  targets: LLAMA_TARGETS,
  pictureRules: ({ pictures }) => pictures,
} as const satisfies FamilyFacts<Qwen3VlConfig>;
