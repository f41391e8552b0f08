/** The model families, by name: a new one is a folder, and a row here and in facts.ts. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { renamedCheckpoint } from "../checkpoint/checkpoint.ts";
import { readJsonObject } from "../checkpoint/files/disk.ts";
import { type ModelFolder, openModelFolder } from "../checkpoint/folder.ts";
import type { PictureForm } from "../data/pictures/form.ts";
import { type PictureRules, pictureForm } from "../data/pictures/forms.ts";
import { type LimitValues, limitOf } from "../data/pictures/limits.ts";
import type { Tokenizer } from "../data/text/tokenizer.ts";
import { UsageError, UserError } from "../errors.ts";
import type { Positions } from "../nn/attention/rope.ts";
import { type Rows, rowsBetween } from "../nn/rows.ts";
import { listOfChoices } from "../options.ts";
import type { DType } from "../torch/dtypes.ts";
import type { FamilyName } from "./facts.ts";
import type { Family, LinearName, ModelConfig, TensorSpec } from "./family.ts";
import { INTERNVL } from "./internvl/internvl.ts";
import type { PlacedRows } from "./positions.ts";
import { QWEN2_5_VL } from "./qwen2_5_vl/qwen2_5_vl.ts";
import { QWEN3_VL } from "./qwen3_vl/qwen3_vl.ts";
import { XCOMPOSER } from "./xcomposer2/xcomposer.ts";

export const FAMILIES = {
  "xcomposer2-4khd": XCOMPOSER,
  qwen2_5_vl: QWEN2_5_VL,
  internvl: INTERNVL,
  qwen3_vl: QWEN3_VL,
} as Record<FamilyName, unknown> as Record<string, Family>;

/** Models that can be planned without a checkpoint. */
export const PRESETS: Record<string, ModelConfig> = Object.assign(
  {},
  ...Object.values(FAMILIES).map(({ presets }) => presets),
);

/** Returns the published model that a preset stands for; undefined for another name. */
export function publishedModel(preset: string): { name: string; repository: string } | undefined {
  const config = PRESETS[preset];
  return config && familyOf(config).published(preset);
}

/** Returns the family of a model. */
export function familyOf({ family }: Pick<ModelConfig, "family">): Family {
  const known = FAMILIES[family];
  if (!known) throw new Error(`no family is called ${family}`);
  return known;
}

/** Returns the family of a checkpoint. Throws UserError if none recognises its config.json. */
export function familyOfFolder({ folder, config }: Pick<ModelFolder, "folder" | "config">): Family {
  const known = Object.values(FAMILIES).find((family) => family.recognises(config));
  if (known) return known;
  const titles = listOfChoices(Object.values(FAMILIES).map(({ title }) => title));
  throw new UserError(
    `${folder} is a model of type "${config.model_type}", which lorafit does not support.`,
    {
      fix: `lorafit reads ${titles} checkpoints; check that the folder holds one.`,
    },
  );
}

/**
 * Opens a folder for the caller to close, with its tensors under the names that the family calls official.
 * Throws UserError if no family recognises it.
 */
export function openFamilyFolder(folder: string): ModelFolder {
  const opened = openModelFolder(folder);
  try {
    const { officialName } = familyOfFolder(opened);
    return officialName ? { ...opened, weights: renamedCheckpoint(opened.weights, officialName) } : opened;
  } catch (thrown) {
    opened.weights.close();
    throw thrown;
  }
}

/** Returns the tokenizer in a model's folder, by its family's form. Data that comes as ids needs none. */
export async function tokenizerOf(folder: string): Promise<Tokenizer | undefined> {
  const configFile = join(folder, "config.json");
  const config = existsSync(configFile) ? readJsonObject(configFile) : {};
  return familyOfFolder({ folder, config }).tokenizer(folder);
}

/**
 * Reads the sizes of the model in a folder. Throws UserError if no family recognises it or its files do not
 * belong together.
 */
export function readModelConfig(folder: ModelFolder): ModelConfig {
  return familyOfFolder(folder).readConfig(folder);
}

/** Returns the type that a checkpoint's norms are stored in, which no quantisation changes. */
export function normType(folder: ModelFolder): DType {
  return folder.weights.entry(familyOfFolder(folder).names.norm).dtype;
}

/** Returns the official LoRA targets of a model, as a regular expression. */
export function officialTargets(config: ModelConfig): string {
  return familyOf(config).targets;
}

/** Returns how a model lays out pictures, as plain data. */
export function pictureRulesOf(config: ModelConfig): PictureRules {
  const rules = familyOf(config).pictureRules(config);
  const { minPixels } = config;
  return "minPixels" in rules && minPixels !== undefined ? { ...rules, minPixels } : rules;
}

/** Options that change how a model lays out pictures. */
export type PictureOptions = LimitValues & { min_pixels?: number | undefined };

/**
 * Returns a configuration with the fewest pixels that a user asks for. Throws UsageError if the model's
 * pictures have no such limit, or if it is above that of the most pixels.
 */
export function withPictureOptions<C extends ModelConfig>(config: C, options: PictureOptions): C {
  const { min_pixels } = options;
  if (min_pixels === undefined) return config;
  const { limit } = pictureFormOf(config);
  if (!("minPixels" in pictureRulesOf(config)))
    throw new UsageError(`--min-pixels ${min_pixels} does not apply to the pictures of this model.`, {
      fix: `Leave it out; --${limit.flag} limits them.`,
    });
  const most = limitOf(options, limit);
  if (min_pixels > most)
    throw new UsageError(`--min-pixels ${min_pixels} is more than --${limit.flag} ${most}.`, {
      fix: `Pass --min-pixels ${most} or less.`,
    });
  return { ...config, minPixels: min_pixels };
}

/** Returns how a model lays out pictures, decodes and transforms them. */
export function pictureFormOf(config: ModelConfig): PictureForm {
  return pictureForm(pictureRulesOf(config));
}

/** Returns the positions of a micro-batch's rows. */
export function positionsOf(config: ModelConfig, rows: PlacedRows): Positions {
  return familyOf(config).positions(rows);
}

/**
 * Returns the ids that the repetition penalty counts before an answer: those of the prompt's text, or the
 * first alone if the family's generate sees embeddings instead of ids.
 */
export function seenBefore(
  config: ModelConfig,
  ids: Int32Array,
  pictures: readonly Rows[],
): Iterable<number> {
  if (!familyOf(config).penalisesPrompt) return [config.bosId];
  return rowsBetween(pictures, ids.length).flatMap(({ start, end }) => [...ids.subarray(start, end)]);
}

/** Returns every tensor of a model's checkpoint by its official name. */
export function tensorsOf(config: ModelConfig): Map<string, TensorSpec> {
  return familyOf(config).tensors(config);
}

/** Returns whether a model's linears have branches of its own, which can be merged or folded into them. */
export function hasBranches(config: ModelConfig): boolean {
  return Object.values(familyOf(config).linears).some(({ branch }) => branch !== undefined);
}

/** Returns the names of a decoder layer's linears, in the family's order. */
export function linearNames(config: ModelConfig): LinearName[] {
  return [...familyOf(config).linearNames];
}

/** Returns [rows, columns] of a layer's linear. */
export function linearShape(config: ModelConfig, name: LinearName): readonly [rows: number, columns: number] {
  return familyOf(config).linears[name]!.shape(config);
}
