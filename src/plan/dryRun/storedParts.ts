/** Tells which parts of the frozen base model stay as the checkpoint stores them. */
import type { BasePart, Bases } from "../../models/precision/bases.ts";
import type { Configuration } from "./configuration.ts";

/**
 * Returns the precision that the decoder's linears have because the checkpoint stores them in fewer bits;
 * otherwise undefined.
 */
export function storedBaseOf({ base, stored }: Pick<Configuration, "base" | "stored">): Bases["base"] {
  return base !== "bf16" && base === stored?.base ? base : undefined;
}

/**
 * Returns the parts of the base model that stay as they are stored. On the host, their matrices are mapped
 * from the checkpoint's file.
 */
export function mappedPartsOf(
  configuration: Bases & Pick<Configuration, "stored" | "mapsWeights">,
): BasePart[] {
  const { stored, mapsWeights } = configuration;
  return (["base", "headBase", "visionBase"] as const).filter((part) => {
    const [held = "bf16", was = "bf16"] = [configuration[part], stored?.[part]];
    return held === was && (held !== "bf16" || mapsWeights);
  });
}
