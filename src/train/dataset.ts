/** Samples of a data set, checked and ready for a model. */
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { basename, join } from "node:path";
import type { BadSample } from "../data/badSamples.ts";
import type { ImageCompat } from "../data/decode.ts";
import { type Dataset, readDataset } from "../data/samples.ts";
import { fileOrder, officialOrder, type Sampler, sampleGroups, shuffledOrder } from "../data/sampling.ts";
import { loadTokenizer, type Tokenizer } from "../data/tokenizer.ts";
import { type PreparedSample, prepareSamples } from "../data/validate.ts";

export interface ReadOptions {
  tokenizer: Tokenizer | undefined;
  vocabSize: number;
  hdNum: number;
  maxLength: number;
  imageCompat: ImageCompat;
  skipBad: boolean;
}

export interface ReadySamples {
  dataset: Dataset;
  samples: PreparedSample[];
  skipped: BadSample[];
}

/** The samples of files with their answers. Throws a UserError that lists the bad ones, unless they are to be left out. */
export async function readySamples(files: string[], options: ReadOptions): Promise<ReadySamples> {
  const dataset = readDataset(files);
  return { dataset, ...(await prepareSamples(dataset, { ...options, purpose: "train" })) };
}

/** The tokenizer in a model's folder; data that comes as ids needs none. */
export async function tokenizerOf(folder: string): Promise<Tokenizer | undefined> {
  return existsSync(join(folder, "tokenizer.model")) ? loadTokenizer(folder) : undefined;
}

/** The order of draws that the options ask for. */
export function samplerOf(
  { dataset, samples }: ReadySamples,
  options: { shuffle: boolean; official_sampling: boolean; seed: number },
): Sampler {
  if (options.official_sampling) return officialOrder(sampleGroups(dataset.files, samples), options.seed);
  return options.shuffle ? shuffledOrder(samples.length, options.seed) : fileOrder(samples.length);
}

/** A hash of what the samples say, wherever their files lie. */
export function samplesFingerprint(samples: readonly PreparedSample[]): string {
  const hash = createHash("sha256");
  for (const { inputIds, labels, images, grids } of samples) {
    hash.update(inputIds).update(labels);
    for (const [index, { path, hdNum }] of images.entries()) {
      hash.update(JSON.stringify([basename(path), hdNum, grids[index]]));
    }
  }
  return hash.digest("hex");
}
