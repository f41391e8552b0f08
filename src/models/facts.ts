/**
 * The model families by name, as far as they are known without the engine. Options are read before the engine
 * is built, so this file must not load it. families.ts has what computes, under the same names.
 */
import { INTERNVL_FACTS } from "./internvl/facts.ts";
import { QWEN2_5_VL_FACTS } from "./qwen2_5_vl/facts.ts";
import { QWEN3_VL_FACTS } from "./qwen3_vl/facts.ts";
import { XCOMPOSER_FACTS } from "./xcomposer2/facts.ts";

export const FAMILY_FACTS = {
  "xcomposer2-4khd": XCOMPOSER_FACTS,
  qwen2_5_vl: QWEN2_5_VL_FACTS,
  internvl: INTERNVL_FACTS,
  qwen3_vl: QWEN3_VL_FACTS,
} as const;

export type FamilyName = keyof typeof FAMILY_FACTS;

/** Linears that get LoRA factors by default: all linears of every family, of which a model has its own. */
export const ALL_LINEARS: readonly string[] = [
  ...new Set(Object.values(FAMILY_FACTS).flatMap(({ linearNames }) => linearNames)),
];
