/**
 * The options that limit a picture's tokens: one for each form of pictures. Options and data sets are read
 * before a model is, so this file loads neither the engine nor a decoder.
 */
import type { z } from "zod";
import { count } from "../../options.ts";
import { HD_NUM } from "./hdTiles/hdNum.ts";

/** An option that limits how many tokens a picture may have. */
export interface PictureLimit {
  /** The option's name in a configuration and in a record of a data set. */
  option: string;
  /** Its name on the command line, without the dashes. */
  flag: string;
  /** Its name in JSON answers. */
  key: string;
  /** Reads the option, with its default and its help. */
  schema: z.ZodDefault<z.ZodInt>;
  /** Help where the default depends on something: without unit and default. */
  help: { plan: string; init: string };
  /** A value in words, for a sentence about a picture: "--hd-num tiles". */
  inWords: string;
  /** Advice for too little memory: a way to smaller pictures, and what it does. */
  lower: string;
  /** Yields smaller values, from large to small, in steps that a user can tell apart. */
  below(limit: number): Iterable<number>;
  /** Values that a search for the largest looks at. */
  range: { least: number; most: number };
  /** Values to compare on a page. */
  usual: readonly number[];
  /** Smaller values to try if the default does not fit. */
  smaller: readonly number[];
}

/** Every limit, by its option. */
export const PICTURE_LIMITS = { hd_num: HD_NUM } as const satisfies Record<string, PictureLimit>;

export type LimitOption = keyof typeof PICTURE_LIMITS;
export type LimitFlag = (typeof PICTURE_LIMITS)[LimitOption]["flag"];

/** The shape of all limits, for the options of a command. */
export const limitShape = Object.fromEntries(
  Object.entries(PICTURE_LIMITS).map(([option, { schema }]) => [option, schema]),
) as { [Option in LimitOption]: (typeof PICTURE_LIMITS)[Option]["schema"] };

/** Returns the shape of all limits without defaults, for a command that finds values by itself. */
export function openLimits(
  command: keyof PictureLimit["help"],
): Record<LimitOption, z.ZodOptional<z.ZodInt>> {
  const shape = Object.values(PICTURE_LIMITS).map(({ option, schema, help }) => [
    option,
    count.optional().meta({ ...schema.meta(), help: help[command] }),
  ]);
  return Object.fromEntries(shape);
}

/** The flags of all limits, for a message that knows no model. */
export const LIMIT_FLAGS = Object.values(PICTURE_LIMITS)
  .map(({ flag }) => `--${flag}`)
  .join(" or ");

/** The values of all limits in words. */
export const LIMITS_IN_WORDS = Object.values(PICTURE_LIMITS)
  .map(({ inWords }) => inWords)
  .join(" or ");

/** Values of the limits, as options have them. */
export type LimitValues = Record<LimitOption, number>;

/** Returns the default of a limit. */
export function defaultOf({ schema }: PictureLimit): number {
  return schema.parse(undefined);
}

/** Returns whether a flag's name is that of a limit. */
export function isLimitFlag(name: string): name is LimitFlag {
  return Object.values(PICTURE_LIMITS).some(({ flag }) => flag === name);
}

/** Returns the value of a limit among the options. */
export function limitOf<Options extends { [Option in LimitOption]?: number | undefined }>(
  options: Options,
  { option }: PictureLimit,
): Options[LimitOption] {
  return options[option as LimitOption];
}

/** Returns the limits alone among options. */
export function limitsAmong(options: LimitValues): LimitValues {
  const shape = Object.values(PICTURE_LIMITS).map(({ option }) => [option, options[option]]);
  return Object.fromEntries(shape);
}

/** Returns the options for a value of a limit. */
export function limitOption<Value>({ option }: PictureLimit, value: Value): Record<LimitOption, Value> {
  return { [option]: value } as Record<LimitOption, Value>;
}
