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
  /** Reads the option, with its help. It has no default: models of other families refuse it. */
  schema: z.ZodOptional<z.ZodInt>;
  /** Help of commands for which the option's own is too long, or whose default is another. */
  help: { plan: string; init: string; serve: string };
  /** Unit of a value, for a slider. */
  unit: string;
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
  /** Values of a slider. Any other can be typed. */
  steps: readonly number[];
  /** Largest value that a page draws a picture at: a larger drawing would take gigabytes. */
  mostDrawn: number;
  /** Smaller values to try if the default does not fit. */
  smaller: readonly number[];
}
