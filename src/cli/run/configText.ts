/**
 * The text of a training configuration: options with their help as comments, those at their defaults
 * commented out.
 */

import { Document, isSeq } from "yaml";
import { type LimitOption, PICTURE_LIMITS } from "../../data/pictures/limits.ts";
import { optionSpecs } from "../../options.ts";
import { printable } from "../../printable.ts";
import { type TrainInput, TrainOptions, trainOptions } from "../../train/options/options.ts";
import { wrap } from "../args/help.ts";

type Key = keyof TrainInput;

/** Options of a first configuration, in this order; every other option of `lorafit train` may be added. */
const SHOWN: readonly Key[] = [
  ...(["model", "data", "eval_data", "output"] as const),
  ...(Object.keys(PICTURE_LIMITS) as LimitOption[]),
  "min_pixels",
  ...(["max_length", "skip_bad"] as const),
  ...(["batch_size", "gradient_accumulation", "epochs", "learning_rate", "lora_r", "lora_alpha"] as const),
  ...(["save_every", "eval_every", "memory", "seed"] as const),
];

/** Options that only some models have: they are shown only if they are given. */
const OF_SOME_MODELS = new Set<Key>([...(Object.keys(PICTURE_LIMITS) as LimitOption[]), "min_pixels"]);

const COLUMNS = 100;

/** Returns YAML with `given` as its options. `about` are lines for its head. */
export function configText(given: TrainInput, about: readonly string[]): string {
  const defaults: Partial<Record<Key, unknown>> = trainOptions({ model: "-", data: "-" });
  const specs = new Map(optionSpecs(TrainOptions).map((spec) => [spec.key, spec]));
  const shown = SHOWN.filter((key) => given[key] !== undefined || !OF_SOME_MODELS.has(key));
  const entries = shown.map((key) => {
    const help = wrap(specs.get(key)?.help ?? "", COLUMNS);
    const isGiven = given[key] !== undefined;
    const line = lineOf(key, given[key] ?? defaults[key]);
    return [commented(help), isGiven ? line : commented(line)].join("\n");
  });
  const head = commented([...about.map(oneLine), SCHEMA].join("\n"));
  return `${head}\n\n${entries.join("\n\n")}\n`;
}

/** Editors check and complete what is below such a line. */
const SCHEMA = "yaml-language-server: $schema=./node_modules/lorafit/schemas/train.schema.json";

function lineOf(key: Key, value: unknown): string {
  if (value === undefined) return `${key}:`;
  const document = new Document({ [key]: value });
  const list = document.get(key);
  if (isSeq(list)) list.flow = true;
  return document.toString({ lineWidth: 0, flowCollectionPadding: false }).trimEnd();
}

function oneLine(text: string): string {
  return printable(text).replaceAll("\n", " ");
}

function commented(text: string): string {
  return text.replaceAll(/^/gm, "# ");
}
