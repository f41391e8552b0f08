/** Which parts of the frozen base are held as the checkpoint has them. */
import type { BasePart, Bases } from "../../models/precision/bases.ts";
import type { Configuration } from "./dryRun.ts";

/**
 * Returns the precision that the decoder's linears have because the checkpoint stores them in fewer bits;
 * otherwise undefined.
 */
export function storedBaseOf({ base, stored }: Pick<Configuration, "base" | "stored">): Bases["base"] {
  return base !== "bf16" && base === stored?.base ? base : undefined;
}

/**
 * The parts of the base whose matrices are, on the host, the checkpoint's mapped file: they are held as they
 * are stored.
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
