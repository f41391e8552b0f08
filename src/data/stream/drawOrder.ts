/**
 * Orders the samples in an endless stream of draws. A sampler knows the sample of any draw at any time, so
 * resuming needs only the number of the next draw.
 */
import { UserError } from "../../errors.ts";
import type { DatasetFile } from "../samples/samples.ts";
import { permutation, randomAt } from "./random.ts";

export interface Draw {
  /** Index of a sample. */
  sample: number;
  epoch: number;
}

export interface Sampler {
  readonly epochDraws: number;
  at(draw: number): Draw;
}

/** Returns a sampler that repeats the samples in their order. */
export function fileOrder(samples: number): Sampler {
  return {
    epochDraws: samples,
    at: (draw) => ({ sample: draw % samples, epoch: Math.floor(draw / samples) }),
  };
}

/** Returns a sampler that draws every sample once an epoch, in another order each epoch. */
export function shuffledOrder(samples: number, seed: number): Sampler {
  const orders = new Map<number, Uint32Array>(); // for two epochs, because packing looks across their border
  const orderOf = (epoch: number): Uint32Array => {
    const known = orders.get(epoch);
    if (known) return known;
    const [oldest] = orders.keys();
    if (orders.size > 1 && oldest !== undefined) orders.delete(oldest);
    const order = permutation(samples, seed, epoch);
    orders.set(epoch, order);
    return order;
  };
  return {
    epochDraws: samples,
    at(draw) {
      const epoch = Math.floor(draw / samples);
      return { sample: orderOf(epoch)[draw % samples] as number, epoch };
    },
  };
}

/** The samples of one file under official sampling. `draws`: draws an epoch. */
export interface SampleGroup {
  samples: number[];
  draws: number;
  pictures: boolean;
}

/**
 * Groups samples by the files of a list. A line's count is in thousands of draws; without a count, a file has
 * as many draws as samples.
 */
export function sampleGroups(
  files: readonly DatasetFile[],
  samples: readonly { source: { file: string }; images: readonly unknown[] }[],
): SampleGroup[] {
  const groups = new Map(
    files.map(({ file, thousands }) => [file, { thousands, samples: [] as number[], pictures: false }]),
  );
  for (const [index, { source, images }] of samples.entries()) {
    const group = groups.get(source.file);
    group?.samples.push(index);
    if (group && images.length > 0) group.pictures = true;
  }
  return [...groups.values()]
    .filter((group) => group.samples.length > 0)
    .map(({ thousands, samples, pictures }) => ({
      samples,
      pictures,
      draws: thousands === undefined ? samples.length : Math.floor(thousands * 1000),
    }));
}

// Streams of random numbers, apart from those of shuffled epochs under the same seed.
const FILE_STREAM = -1;
const RECORD_STREAM = -2;
const SUBSET_STREAM = -3;

/**
 * Returns a sampler that draws as the official code does: with replacement, files by their counts, and one
 * sample with pictures, then two of text, if there are both. A file with more samples than its count gives a
 * fixed part of them. Source: finetune/data_mix.py, Mix_dataset.
 */
export function officialOrder(groups: readonly SampleGroup[], seed: number): Sampler {
  const kinds = [groups.filter(({ pictures }) => pictures), groups.filter(({ pictures }) => !pictures)];
  const [withPictures = [], ofText = []] = kinds.map((kind) => kind.filter(({ draws }) => draws > 0));
  const epochDraws = [...withPictures, ...ofText].reduce((sum, { draws }) => sum + draws, 0);
  if (epochDraws === 0) {
    throw new UserError("Official sampling would draw nothing: all counts are below one sample.", {
      fix: "Counts in the list are thousands of samples: 0.1 is 100.",
    });
  }
  const subsets = new Map(groups.map((group, index) => [group, subset(group, seed, index)]));
  return {
    epochDraws,
    at(draw) {
      const turn = draw % 3 === 0 ? withPictures : ofText;
      const kind = turn.length > 0 ? turn : [...withPictures, ...ofText];
      const group = pickGroup(kind, randomAt(seed, FILE_STREAM, draw));
      const samples = subsets.get(group) as number[];
      const place = Math.floor(randomAt(seed, RECORD_STREAM, draw) * samples.length);
      return { sample: samples[place] as number, epoch: Math.floor(draw / epochDraws) };
    },
  };
}

function subset({ samples, draws }: SampleGroup, seed: number, index: number): number[] {
  if (samples.length <= draws) return samples;
  const order = permutation(samples.length, seed, SUBSET_STREAM - index);
  return Array.from(order.subarray(0, draws), (place) => samples[place] as number);
}

/** Returns the group that a point of [0, 1) falls in, with each group as wide as its draws. */
function pickGroup(groups: readonly SampleGroup[], point: number): SampleGroup {
  let rest = point * groups.reduce((sum, { draws }) => sum + draws, 0);
  for (const group of groups) {
    rest -= group.draws;
    if (rest < 0) return group;
  }
  return groups.at(-1) as SampleGroup;
}
