/** The form of a command's options, and the options that every command has. */
import { z } from "zod";
import type { UserError } from "../../errors.ts";
import { group, type OptionSpec, text } from "../../options.ts";

/** The options of a command, and how its help shows them. */
export interface CommandOptions {
  options: z.ZodType;
  /** One or two sentences for --help. */
  about: string;
  /** Command lines after "lorafit". */
  examples: string[];
  /** The option that a word without a flag stands for. */
  positional?: string;
  /** Whether --config FILE gives options too. */
  config?: boolean;
  /** Options beside those of `options` that the help does not list; `read` reads them. */
  unlisted?: OptionSpec[];
  /** Reads the options; without it parseOptions does. */
  read?: (
    raw: Record<string, unknown>,
    spell: (key: string) => string,
    before: readonly UserError[],
  ) => unknown;
}

/** Flags that every command has. */
export const CommonOptions = z.strictObject(
  group("Output", {
    json: z
      .boolean()
      .default(false)
      .meta({ help: "Print JSON, one value a line, instead of text for people." }),
    help: z
      .boolean()
      .default(false)
      .meta({ help: "Show this help.", alias: ["h"] }),
  }),
);

/** Common options of commands that accept a configuration. */
export const ConfigOptions = CommonOptions.extend({
  config: text
    .optional()
    .meta({ help: "YAML file with options. Flags override it.", value: "FILE", group: "Output" }),
});
