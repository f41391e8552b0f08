/** InternLM-XComposer2 as far as it is known without the engine. */
import type { FamilyFacts } from "../family.ts";
import { OFFICIAL_TARGETS, PRESETS, XCOMPOSER_LINEARS, type XComposerConfig } from "./spec.ts";

/**
 * Most tiles of a picture in the training of InternLM-XComposer2-4KHD: HD-55. Source: arXiv:2404.06512,
 * section 3.
 */
const TRAINED_TILES = 55;

export const XCOMPOSER_FACTS = {
  title: "InternLM-XComposer2",
  recognises: ({ model_type: type }) => type === undefined || /^internlm(2|_?xcomposer2)$/.test(String(type)),
  presets: PRESETS,
  published: () => ({
    name: "InternLM-XComposer2-4KHD",
    repository: "internlm/internlm-xcomposer2-4khd-7b",
  }),
  trained: ({ maxPositions }) => ({ maxLength: maxPositions, pictureLimit: TRAINED_TILES }),
  linearNames: XCOMPOSER_LINEARS,
  targets: OFFICIAL_TARGETS,
  pictureRules: () => ({ form: "hdTiles" }),
} as const satisfies FamilyFacts<XComposerConfig>;
