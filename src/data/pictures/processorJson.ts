/** Values that the preprocessor_config.json of several families have, and how pixels are normalised. */
import { z } from "zod";
import { UserError } from "../../errors.ts";

/** Three values, for red, green and blue. */
export type Colours = readonly [red: number, green: number, blue: number];

export const Three = z.tuple([z.number(), z.number(), z.number()]);

/** Checks the values of a file. Throws UserError that names the first that does not fit the schema. */
export function parseProcessorJson<S extends z.ZodType>(schema: S, json: unknown, file: string): z.output<S> {
  const parsed = schema.safeParse(json);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new UserError(`${file}: ${issue?.path.join(".")}: ${issue?.message}.`, {
    fix: "Download the file again; it comes with the weights.",
  });
}

/**
 * Returns the numbers that normalise 8-bit pixels: (v - shift) / scale in float32, as the fast processor
 * computes it. Source: transformers, image_processing_backends.py, which folds the factor 1 / 255 into both.
 */
export function normalisationOf({ mean, std }: { mean: Colours; std: Colours }): {
  shift: Float32Array;
  scale: Float32Array;
} {
  const times255 = (values: Colours): Float32Array =>
    Float32Array.from(values, (one) => Math.fround(one) * 255);
  return { shift: times255(mean), scale: times255(std) };
}
