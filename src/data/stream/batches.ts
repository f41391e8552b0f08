/**
 * Makes the stream of micro-batches: draws in order, packed, with pictures decoded ahead of the step, laid
 * out as rows of one sequence. A stream that starts at the position of a micro-batch continues exactly as the
 * first stream would.
 */
import { UserError } from "../../errors.ts";
import { isSameLayout, type LoadedPicture, type PictureLayout } from "../pictures/form.ts";
import { pictureName } from "../pictures/source.ts";
import { pictureError } from "../samples/badSamples.ts";
import type { EncodedSample } from "../samples/dialogue.ts";
import { countLabels, sampleRows } from "../samples/rows.ts";
import { IGNORE, IMAGE_SLOT, type SampleSource } from "../samples/sample.ts";
import type { PreparedSample } from "../samples/validate.ts";
import type { Sampler } from "./drawOrder.ts";
import { type DataPosition, type Packing, type PlannedBatch, planBatches, START } from "./packing.ts";

/** Packed samples, one after the other. T is the number of rows of all of them. */
export interface MicroBatch {
  /** (T) token ids; 0 in the rows of pictures */
  inputIds: Int32Array;
  /** (T) the label of the next row of the same sample; IGNORE if there is none */
  targets: Int32Array;
  /** Rows of each sample; they sum to T. */
  sampleTokens: number[];
  /** Rows of each picture, ascending. `image` indexes `images`; samples with the same picture share one. */
  imageSlices: { start: number; end: number; image: number }[];
  /**
   * Rows of the model's branch for pictures, if a plan of many micro-batches has more of them than
   * `imageSlices` says.
   */
  branchRows?: readonly { start: number; end: number }[] | undefined;
  images: PictureLayout[];
  samples: SampleSource[];
  /** Number of targets that are not IGNORE. */
  labelTokens: number;
  epoch: number;
  /** Position at which the stream continues after this micro-batch. */
  position: DataPosition;
}

/** Loads a picture, in this thread or another. */
export interface PictureLoader {
  load(path: string, limit: number): Promise<LoadedPicture>;
}

export interface BatchOptions extends LoadingOptions {
  packing: Packing;
  /** Draws after which the stream ends; Infinity for an endless stream. */
  draws: number;
}

/** Inputs for loading planned micro-batches. */
export interface LoadingOptions {
  samples: readonly PreparedSample[];
  sampler: Sampler;
  pictures: PictureLoader;
  /**
   * Pictures that may wait decoded, each with up to 0.35 MB a tile. At least one micro-batch is loaded ahead.
   */
  picturesAhead?: number;
  /**
   * Called for a sample whose picture cannot be decoded; the sample is left out. Without this function, that
   * is an error.
   */
  onBadPicture?: (source: SampleSource, error: UserError) => void;
}

/** Most micro-batches to look ahead for pictures. Those of text alone need no loading. */
const QUEUE_BATCHES = 16;

/**
 * Yields micro-batches from a position on. Throws a UserError that names sample and file if a picture cannot
 * be loaded.
 */
export function createBatches(options: BatchOptions, from: DataPosition = START): AsyncGenerator<MicroBatch> {
  return loadBatches(plansOf(options, from), options);
}

/** Plans micro-batches from a position on, without loading anything. */
export function plansOf(
  { samples, sampler, packing, draws }: Omit<BatchOptions, "pictures">,
  from: DataPosition,
): Generator<PlannedBatch> {
  const tokensOf = (draw: number): number => samples[sampler.at(draw).sample]!.tokens;
  return planBatches(tokensOf, packing, draws, from);
}

/**
 * Yields planned micro-batches, except those whose samples are all left out. Throws as createBatches does.
 */
export async function* loadBatches(
  planned: Iterable<PlannedBatch>,
  options: LoadingOptions,
): AsyncGenerator<MicroBatch> {
  const { samples, sampler, picturesAhead = 8 } = options;
  const sampleAt = (draw: number): PreparedSample => samples[sampler.at(draw).sample] as PreparedSample;
  const plans = planned[Symbol.iterator]();
  const queue: PendingBatch[] = [];
  for (;;) {
    while (queue.length < QUEUE_BATCHES && (queue.length < 2 || pictureCount(queue) < picturesAhead)) {
      const { value: plan, done } = plans.next();
      if (done) break;
      queue.push(startLoading(plan, plan.draws.map(sampleAt), options.pictures));
    }
    const pending = queue.shift();
    if (!pending) return;
    const loaded = await loadedSamples(pending, options.onBadPicture);
    if (loaded.length === 0) continue;
    const epoch = sampler.at(pending.plan.draws[0] as number).epoch;
    yield { ...layoutBatch(loaded), epoch, position: pending.plan.after };
  }
}

export interface LoadedSample {
  sample: EncodedSample;
  /** One picture for each slot of the sample. */
  images: readonly PictureLayout[];
}

/** Lays out the rows of samples and their pictures. */
export function layoutBatch(loaded: readonly LoadedSample[]): Omit<MicroBatch, "epoch" | "position"> {
  const sampleTokens = loaded.map(({ sample, images: pictures }) => sampleRows(sample, pictures));
  const rows = sampleTokens.reduce((sum, count) => sum + count, 0);
  const inputIds = new Int32Array(rows);
  const labels = new Int32Array(rows).fill(IGNORE);
  const targets = new Int32Array(rows).fill(IGNORE);
  const images: PictureLayout[] = [];
  const imageSlices: MicroBatch["imageSlices"] = [];
  let row = 0;
  for (const { sample, images: pictures } of loaded) {
    const sampleStart = row;
    let slot = 0;
    for (const [index, id] of sample.inputIds.entries()) {
      if (id === IMAGE_SLOT) {
        const picture = pictures[slot++] as PictureLayout;
        const end = row + picture.tokens;
        imageSlices.push({ start: row, end, image: indexIn(images, picture) });
        row = end;
      } else {
        inputIds[row] = id;
        labels[row++] = sample.labels[index] as number;
      }
    }
    targets.set(labels.subarray(sampleStart + 1, row), sampleStart);
  }
  const labelTokens = countLabels(targets);
  const samples = loaded.map(({ sample }) => sample.source);
  return { inputIds, targets, sampleTokens, imageSlices, images, samples, labelTokens };
}

function indexIn(images: PictureLayout[], picture: PictureLayout): number {
  const found = images.indexOf(picture);
  return found >= 0 ? found : images.push(picture) - 1;
}

/** A picture, or the error of loading it. As a value, an early failure is no unhandled rejection. */
type Picture = { ok: true; image: LoadedPicture } | { ok: false; error: unknown };

interface PendingBatch {
  plan: PlannedBatch;
  samples: { sample: PreparedSample; pictures: Promise<Picture>[] }[];
  pictureCount: number;
}

/** Starts to load the pictures of a micro-batch, each once, however many of its samples show it. */
function startLoading(plan: PlannedBatch, samples: PreparedSample[], loader: PictureLoader): PendingBatch {
  const loads = new Map<string, Promise<Picture>>();
  const load = ({ path, limit }: { path: string; limit: number }): Promise<Picture> => {
    const key = `${limit} ${path}`;
    const started = loads.get(key) ?? settled(loader.load(path, limit));
    loads.set(key, started);
    return started;
  };
  const withPictures = samples.map((sample) => ({ sample, pictures: sample.images.map(load) }));
  return { plan, samples: withPictures, pictureCount: loads.size };
}

function settled(image: Promise<LoadedPicture>): Promise<Picture> {
  return image.then(
    (value): Picture => ({ ok: true, image: value }),
    (error): Picture => ({ ok: false, error }),
  );
}

function pictureCount(queue: readonly PendingBatch[]): number {
  return queue.reduce((sum, batch) => sum + batch.pictureCount, 0);
}

async function loadedSamples(
  { samples }: PendingBatch,
  onBadPicture: BatchOptions["onBadPicture"],
): Promise<LoadedSample[]> {
  const loaded: LoadedSample[] = [];
  for (const { sample, pictures } of samples) {
    try {
      loaded.push({ sample, images: checkedImages(sample, await Promise.all(pictures)) });
    } catch (error) {
      if (!(error instanceof UserError && onBadPicture)) throw error;
      onBadPicture(sample.source, error);
    }
  }
  return loaded;
}

function checkedImages(sample: PreparedSample, pictures: Picture[]): LoadedPicture[] {
  return pictures.map((picture, index) => {
    if (!picture.ok && picture.error instanceof UserError) throw pictureError(sample.source, picture.error);
    if (!picture.ok) throw picture.error;
    const grid = sample.grids[index];
    if (grid && isSameLayout(grid, picture.image)) return picture.image;
    const [before, now] = [grid?.source, picture.image.source].map(
      (size) => `${size?.width} x ${size?.height}`,
    );
    const name = pictureName(sample.images[index]?.path ?? "");
    const changed = new UserError(
      `${name} has changed its size: ${before} pixels at the start, now ${now}.`,
      {
        fix: "Leave pictures alone while they are trained on, and continue with --resume.",
      },
    );
    throw pictureError(sample.source, changed);
  });
}
