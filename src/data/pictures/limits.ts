/**
 * The options that limit a picture's tokens: one for each form of pictures. Options and data sets are read
 * before a model is, so this file loads neither the engine nor a decoder.
 */
import type { z } from "zod";
import { UsageError } from "../../errors.ts";
import { count } from "../../options.ts";
import { HD_NUM } from "./hdTiles/hdNum.ts";
import { MAX_TILES } from "./internvlTiles/maxTiles.ts";
import { MAX_PIXELS } from "./patches/maxPixels.ts";
import type { PictureLimit } from "./pictureLimit.ts";

/** Every limit, by its option. */
export const PICTURE_LIMITS = {
  hd_num: HD_NUM,
  max_pixels: MAX_PIXELS,
  max_tiles: MAX_TILES,
} as const satisfies Record<string, PictureLimit>;

export type LimitOption = keyof typeof PICTURE_LIMITS;
export const LIMIT_OPTIONS = Object.keys(PICTURE_LIMITS) as LimitOption[];
export type LimitFlag = (typeof PICTURE_LIMITS)[LimitOption]["flag"];

/** The shape of all limits, for the options of a command. */
export const limitShape = Object.fromEntries(
  Object.entries(PICTURE_LIMITS).map(([option, { schema }]) => [option, schema]),
) as { [Option in LimitOption]: (typeof PICTURE_LIMITS)[Option]["schema"] };

/** Returns the shape of all limits with the help of a command. */
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
export type LimitValues = { [Option in LimitOption]?: number | undefined };

/** Returns whether a flag's name is that of a limit. */
export function isLimitFlag(name: string): name is LimitFlag {
  return Object.values(PICTURE_LIMITS).some(({ flag }) => flag === name);
}

/** Returns the value of a limit: among the options, or else its default. */
export function limitOf(options: LimitValues, limit: PictureLimit): number {
  return givenLimit(options, limit) ?? limit.default;
}

/**
 * Returns the value of a limit among the options; undefined if they have none. Throws UsageError if they
 * limit pictures of another kind, which would have no effect.
 */
export function givenLimit(options: LimitValues, limit: PictureLimit): number | undefined {
  const foreign = foreignAmong(options, limit);
  if (foreign) throw foreignLimit(foreign, limit, options);
  return options[limit.option as LimitOption];
}

/** Returns a limit among the options that limits pictures of another kind; undefined if there is none. */
export function foreignAmong(options: LimitValues, limit: PictureLimit): PictureLimit | undefined {
  return Object.values(PICTURE_LIMITS).find(
    ({ option }) => option !== limit.option && options[option] !== undefined,
  );
}

/**
 * Returns options with the value of a limit in place, and without limits of other kinds of pictures. Throws
 * UsageError for one of those, unless `recorded` has the same: earlier versions recorded hd_num for every
 * model.
 */
export function withOwnLimit<O extends LimitValues>(
  options: O,
  limit: PictureLimit,
  recorded: LimitValues = {},
): O {
  const isLeftOut = ([option, value]: [string, unknown]): boolean =>
    option in PICTURE_LIMITS && option !== limit.option && value === recorded[option as LimitOption];
  const kept = Object.fromEntries(Object.entries(options).filter((entry) => !isLeftOut(entry))) as O;
  return { ...kept, ...limitOption(limit, limitOf(kept, limit)) };
}

/**
 * Returns the error for a limit of another kind of pictures than the model's. options: all that were given,
 * which may have the model's own limit too.
 */
export function foreignLimit(
  given: Pick<PictureLimit, "flag">,
  { flag, option }: PictureLimit,
  options: LimitValues = {},
): UsageError {
  const hasOwn = options[option as LimitOption] !== undefined;
  return new UsageError(`--${given.flag} does not limit the pictures of this model.`, {
    fix: hasOwn ? `Leave it out; --${flag} limits them.` : `Pass --${flag} instead.`,
  });
}

/** Returns the limits alone among options. */
export function limitsAmong(options: LimitValues): LimitValues {
  return Object.fromEntries(LIMIT_OPTIONS.map((option) => [option, options[option]]));
}

/** Returns the options for a value of a limit. */
export function limitOption({ option }: PictureLimit, value: number): { [Option in LimitOption]?: number } {
  return { [option]: value };
}
