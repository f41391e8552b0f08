/** Options of `lorafit sweep` and `lorafit sweep show`. */
import { z } from "zod";
import { group, type OptionSpec, text } from "../../options.ts";
import { readSweepOptions, SweepOwn } from "../../sweep/options.ts";
import { TRIAL_SPECS } from "../../sweep/space/space.ts";

/** Returns a flag of training with several values: --lora-r 4,8 or --lora-r 4 8; --pack or --no-pack. */
function severalValued(spec: OptionSpec): OptionSpec {
  return spec.kind === "value" ? { ...spec, many: true } : { ...spec, kind: "either" };
}

export const sweep = {
  about:
    "Trains with many settings, one run each, and finds the best by its evaluation. Every option of lorafit train may be given, with one value, a list or a range. Without any, a sweep tries ranks of 4 to 32, an alpha of 1x and 2x the rank, and four learning rates from 5e-5 upwards. Trials that do not fit the memory limit are listed and not started. The same command continues a sweep that was stopped.",
  options: SweepOwn,
  config: true,
  unlisted: TRIAL_SPECS.map(severalValued),
  read: readSweepOptions,
  examples: [
    "sweep --model internlm/internlm-xcomposer2-4khd-7b --data data.txt --val-size 0.1 --max-steps 200",
    "sweep --config sweep.yaml --strategy halving",
    "sweep --config train.yaml --lora-r 8,16 --lora-alpha 1x,2x --learning-rate log:5e-5..1e-3:5 --output ranks",
  ],
};

export const sweepShow = {
  about:
    "Shows the table of a sweep as it is now, finished or not: the trials with their settings, evaluation and memory, the best first.",
  options: z.strictObject(
    group("Sweep", {
      folder: text.meta({ help: "Output folder of a sweep.", value: "FOLDER" }),
      csv: z.boolean().default(false).meta({ help: "Print the table as CSV, in bytes and milliseconds." }),
    }),
  ),
  positional: "folder",
  examples: ["sweep show sweep", "sweep show sweep --csv > sweep.csv"],
};
