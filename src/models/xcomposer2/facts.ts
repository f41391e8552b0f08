/** InternLM-XComposer2 as far as it is known without the engine. */
import type { FamilyFacts } from "../family.ts";
import {
  CLIP_VIT_L_14_336,
  OFFICIAL_TARGETS,
  PRESETS,
  XCOMPOSER_LINEARS,
  type XComposerConfig,
  xcomposerRules,
} from "./spec.ts";

/**
 * Most tiles of a picture in the training of InternLM-XComposer2-4KHD: HD-55. Source: arXiv:2404.06512,
 * section 3.
 */
const TRAINED_TILES = 55;

/**
 * InternLM-XComposer2.5: text and pictures of 24K tokens in training (arXiv:2407.03320, abstract), and the
 * most tiles that its official code takes of one picture.
 */
const TRAINED_2_5 = { maxLength: 24_576, pictureLimit: 24 };

/** InternLM-XComposer2-VL: max_length of its published configuration (from memory), and one square. */
const TRAINED_VL = { maxLength: 4096, pictureLimit: 1 };

const PUBLISHED = {
  "4khd-7b": { name: "InternLM-XComposer2-4KHD", repository: "internlm/internlm-xcomposer2-4khd-7b" },
  "xcomposer2.5-7b": { name: "InternLM-XComposer2.5", repository: "internlm/internlm-xcomposer2d5-7b" },
  "xcomposer2-vl-7b": { name: "InternLM-XComposer2-VL", repository: "internlm/internlm-xcomposer2-vl-7b" },
} as const satisfies Record<keyof typeof PRESETS, { name: string; repository: string }>;

function trainedWith({ imagePixels, isWhole }: XComposerConfig["vision"], maxPositions: number) {
  if (imagePixels === CLIP_VIT_L_14_336.imagePixels)
    return { maxLength: maxPositions, pictureLimit: TRAINED_TILES };
  return isWhole ? TRAINED_VL : TRAINED_2_5;
}

export const XCOMPOSER_FACTS = {
  title: "InternLM-XComposer2",
  recognises: ({ model_type: type }) => type === undefined || /^internlm(2|_?xcomposer2)$/.test(String(type)),
  presets: PRESETS,
  published: (preset) => PUBLISHED[preset as keyof typeof PUBLISHED],
  trained: ({ maxPositions, vision }) => {
    const { maxLength, pictureLimit } = trainedWith(vision, maxPositions);
    return { maxLength: Math.min(maxPositions, maxLength), pictureLimit };
  },
  linearNames: XCOMPOSER_LINEARS,
  targets: OFFICIAL_TARGETS,
  pictureRules: xcomposerRules,
} as const satisfies FamilyFacts<XComposerConfig>;
