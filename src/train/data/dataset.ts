/** Samples of a data set, checked and ready for a model. */
import { createHash } from "node:crypto";
import { basename } from "node:path";
import type { PictureForm } from "../../data/pictures/form.ts";
import type { ImageCompat } from "../../data/pictures/imageCompat.ts";
import { type LimitValues, limitOf } from "../../data/pictures/limits.ts";
import { type Dataset, readDataset } from "../../data/samples/samples.ts";
import {
  type PreparedSample,
  type PreparedSamples,
  type PrepareOptions,
  prepareSamples,
} from "../../data/samples/validate.ts";
import {
  fileOrder,
  officialOrder,
  type Sampler,
  sampleGroups,
  shuffledOrder,
} from "../../data/stream/drawOrder.ts";
import type { Tokenizer } from "../../data/text/tokenizer.ts";
import { plural } from "../../errors.ts";
import { pictureFormOf } from "../../models/families.ts";
import type { ModelConfig } from "../../models/family.ts";

/** A model as far as samples are read for it. */
export interface Reader {
  tokenizer: Tokenizer | undefined;
  config: ModelConfig;
}

/** The options of a command that say how samples are read. */
export interface DataOptions extends LimitValues {
  max_length: number;
  image_compat: ImageCompat;
  skip_bad: boolean;
  label_newline?: boolean;
}

export interface ReadySamples extends PreparedSamples {
  dataset: Dataset;
}

/** Functions that receive notices of skipped samples, and the number of samples checked so far. */
export interface CheckHooks extends Pick<PrepareOptions, "onProgress" | "insteadOfSkipping" | "thorough"> {
  notice: (text: string) => void;
}

/**
 * The samples of files with their answers. Throws a UserError that lists the bad ones, unless they are to be
 * left out.
 */
export async function readySamples(
  files: string[],
  reader: Reader,
  options: DataOptions,
  hooks: CheckHooks,
): Promise<ReadySamples> {
  const dataset = readDataset(files);
  return { dataset, ...(await checkSamples(dataset, reader, options, { purpose: "train", ...hooks })) };
}

/**
 * The samples of a data set that can be used; `notice` hears of those that were left out. Throws as
 * readySamples does.
 */
export async function checkSamples(
  dataset: Dataset,
  { tokenizer, config }: Reader,
  options: DataOptions,
  { notice, ...check }: Pick<PrepareOptions, "purpose"> & CheckHooks,
): Promise<PreparedSamples> {
  const pictures = pictureFormOf(config);
  const prepared = await prepareSamples(dataset, {
    tokenizer,
    vocabSize: config.vocab,
    pictures,
    pictureLimit: limitOf(options, pictures.limit),
    maxLength: options.max_length,
    imageCompat: options.image_compat,
    skipBad: options.skip_bad,
    labelNewline: options.label_newline ?? false,
    ...check,
  });
  for (const warning of dataset.warnings ?? []) notice(warning);
  const { length } = prepared.skipped;
  if (length > 0) notice(`left out ${plural(length, "sample")} that cannot be used:`);
  for (const { message } of prepared.skipped) notice(`  ${message}`);
  return prepared;
}

/** The order of draws that the options ask for. */
export function samplerOf(
  { dataset, samples }: ReadySamples,
  options: { shuffle: boolean; official_sampling: boolean; seed: number },
): Sampler {
  if (options.official_sampling) return officialOrder(sampleGroups(dataset.files, samples), options.seed);
  return options.shuffle ? shuffledOrder(samples.length, options.seed) : fileOrder(samples.length);
}

/** A hash of what the samples say and show, wherever their files lie. */
export function samplesFingerprint(samples: readonly PreparedSample[], form: PictureForm): string {
  const hash = createHash("sha256");
  for (const { inputIds, labels, images, grids } of samples) {
    hash.update(inputIds).update(labels);
    for (const [index, { path, limit }] of images.entries())
      hash.update(JSON.stringify([basename(path), limit, form.placing(grids[index]!.source, limit)]));
  }
  return hash.digest("hex");
}
