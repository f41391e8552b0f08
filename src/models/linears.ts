/**
 * Names of the decoder's linears. Options are read before the engine is built, so this file must not load it.
 */
import { XCOMPOSER_LINEARS } from "./xcomposer2/spec.ts";

/** Linears that get LoRA factors by default: all linears of every family, of which a model has its own. */
export const ALL_LINEARS: readonly string[] = XCOMPOSER_LINEARS;
