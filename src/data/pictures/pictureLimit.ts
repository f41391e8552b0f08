import type { z } from "zod";

/** An option that limits how many tokens a picture may have. */
export interface PictureLimit {
  /** The option's name in a configuration and in a record of a data set. */
  option: string;
  /** Its name on the command line, without the dashes. */
  flag: string;
  /** Its name in JSON answers. */
  key: string;
  /** The value if the user gives none. */
  default: number;
  /** Reads the option, with its help. It has no default if that depends on the model. */
  schema: z.ZodDefault<z.ZodInt> | z.ZodOptional<z.ZodInt>;
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
