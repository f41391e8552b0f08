/** The options of `lorafit sweep`: its own, and those of training, each with one value or several. */
import { z } from "zod";
import { joinedErrors, UsageError, type UserError } from "../errors.ts";
import { count, group, optionErrors, parseOptions, text } from "../options.ts";
import { STRATEGIES } from "../runs/sweepTable.ts";
import type { Space } from "./space/space.ts";
import { readSpace } from "./space/space.ts";

const strategy = z
  .enum(STRATEGIES)
  .default("grid")
  .meta({
    help: "grid: every combination. random: --trials combinations, drawn by --seed. halving: all trials begin with a part of their steps; the better ones continue.",
    alias: ["method"],
  });

/** Options of the sweep itself. */
export const SweepOwn = z.strictObject(
  group("Sweep", {
    output: text.default("sweep").meta({
      help: "Folder for the table, the runs and the best adapter. The same command continues a sweep that was stopped.",
      value: "FOLDER",
      alias: ["output_dir"],
    }),
    strategy,
    trials: count.optional().meta({
      help: "Number of trials, for random and halving. Default: 16 with random; all combinations with halving.",
      alias: ["run_cap", "n_trials", "num_samples"],
    }),
    reduction_factor: z
      .int()
      .min(2)
      .default(2)
      .meta({
        help: "With halving: one trial of so many continues after each round, with so many times the steps.",
        alias: ["eta", "factor"],
      }),
    min_steps: count.optional().meta({
      help: "With halving: steps of the first round, at least. Default: a 16th of the run, and more than its warm-up.",
      alias: ["min_iter", "grace_period", "min_resource"],
    }),
    devices: z
      .array(z.union([z.stringFormat("device", /^(cpu|(cuda:)?\d+)$/), z.int().min(0).transform(String)]))
      .min(1)
      .optional()
      .meta({
        help: "Devices that run one trial each: numbers of GPUs, as 0 1 2; cpu may be given several times. Default: every GPU, or the CPU if there is none.",
        value: "DEVICE",
        takes: "numbers of GPUs, or cpu",
      }),
    retry: z.boolean().default(false).meta({
      help: "Run trials again that have failed, and plan those again that were too large.",
    }),
  }),
);

export type SweepOptions = z.output<typeof SweepOwn> & { space: Space };

/** Names that trackers and our own records have for the loss of an evaluation. */
const OTHER_NAMES_OF_LOSS = new Set<unknown>(["eval_loss", "evalLoss", "eval/loss"]);

/**
 * Reads the options of a sweep. Throws one UsageError for all that is wrong; `spell` names an option in it,
 * and `before` are errors that were found earlier.
 */
export function readSweepOptions(
  raw: Record<string, unknown>,
  spell: (key: string) => string,
  before: readonly UserError[],
): SweepOptions {
  const isOwn = (key: string): boolean => Object.hasOwn(SweepOwn.shape, key);
  const [own, ofTrials] = [true, false].map((wanted) =>
    Object.fromEntries(Object.entries(raw).filter(([key]) => isOwn(key) === wanted)),
  ) as [Record<string, unknown>, Record<string, unknown>];
  if (OTHER_NAMES_OF_LOSS.has(ofTrials.metric)) ofTrials.metric = "loss";
  const { space, errors } = readSpace(ofTrials, spell);
  const all = [...before, ...optionErrors(SweepOwn, own, spell).values(), ...errors];
  if (all.length === 0) all.push(...wrongTogether(own, space, spell));
  const [first, ...others] = all;
  if (first) throw joinedErrors([first, ...others], "options");
  return { ...parseOptions(SweepOwn, own, spell), space };
}

function wrongTogether(
  { strategy: chosen = "grid", trials, ...own }: Record<string, unknown>,
  { base, axes }: Space,
  spell: (key: string) => string,
): UserError[] {
  const errors: UserError[] = [];
  const wrong = (message: string, fix: string): void => void errors.push(new UsageError(message, { fix }));
  const isGiven = (key: string): boolean => base[key] !== undefined || axes.some((axis) => axis.key === key);
  if (!isGiven("eval_data") && !isGiven("val_size"))
    wrong(
      "A sweep compares its trials by an evaluation, and no samples are given for that.",
      "Pass --eval-data FILE, or --val-size 0.1 to set a part of the data aside.",
    );
  if (chosen === "grid" && trials !== undefined)
    wrong(
      `${spell("trials")} goes with random or halving: a grid runs every combination.`,
      "Pass --strategy random, or leave it out.",
    );
  for (const key of ["reduction_factor", "min_steps"])
    if (chosen !== "halving" && own[key] !== undefined)
      wrong(`${spell(key)} goes with halving.`, "Pass --strategy halving, or leave it out.");
  for (const key of ["metric", "eval_data", "val_size"])
    if (axes.some((axis) => axis.key === key))
      wrong(`${spell(key)} takes one value: trials must be evaluated alike.`, "Give it a single value.");
  return errors;
}
