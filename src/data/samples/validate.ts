/**
 * Prepares samples for training. It encodes them, reads the sizes of their pictures, and checks everything
 * that would stop a run halfway. Nothing is cut to fit: a sample that is too long is a bad sample, and its
 * error names settings that would fit it.
 */
import { setImmediate } from "node:timers/promises";
import { formatCount, UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import { imageSize, MAX_PIXELS, type PictureSize, refuseCutOff } from "../pictures/decode.ts";
import type { PictureForm, PlacedPicture } from "../pictures/form.ts";
import type { ImageCompat } from "../pictures/imageCompat.ts";
import { pictureName } from "../pictures/source.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import { type BadSample, badSample, badSamplesError, pictureError, sampleError } from "./badSamples.ts";
import {
  type EncodedSample,
  encodePrompt,
  encodeRecordPrompt,
  encodeSample,
  type LabelOptions,
  requireTokenizer,
} from "./dialogue.ts";
import { firstLabel, sampleRows } from "./rows.ts";
import { IGNORE, IMAGE_SLOT, type Sample } from "./sample.ts";
import type { Dataset } from "./samples.ts";
import { refuseFarTooLong, tooLongSample } from "./tooLong.ts";

export interface PreparedSample extends EncodedSample {
  /** One for each picture. */
  grids: PlacedPicture[];
  /** Rows of the sample, with those of its pictures. */
  tokens: number;
}

export interface PrepareOptions extends LabelOptions {
  tokenizer: Tokenizer | undefined;
  vocabSize: number;
  pictures: PictureForm;
  /** Limit of the tokens of a picture, as the form takes it. */
  pictureLimit: number;
  maxLength: number;
  imageCompat: ImageCompat;
  /**
   * "generate" encodes the part before the last answer, and needs no answers. "ask" does so for a prompt that
   * a user has typed, whose whitespace stays.
   */
  purpose: "train" | "generate" | "ask";
  /** True decodes pictures whose format does not mark its end (TIFF, AVIF, BMP). Default: false. */
  thorough?: boolean | undefined;
  /** True leaves bad samples out. With false they are an error. */
  skipBad: boolean;
  /** Advice to give instead of leaving bad samples out, if leaving out is not possible. */
  insteadOfSkipping?: string | undefined;
  onProgress?: ((done: number, total: number) => void) | undefined;
}

export interface PreparedSamples {
  samples: PreparedSample[];
  skipped: BadSample[];
}

/** Samples checked at a time. Reading headers waits for the disk more than for a core. */
const CONCURRENT_SAMPLES = 16;
/** Samples after which the event loop runs other work. */
const SAMPLES_BEFORE_PAUSE = 64;

/**
 * Prepares samples. Throws one UserError that lists all bad samples, unless they are skipped and some good
 * ones remain.
 */
export async function prepareSamples(dataset: Dataset, options: PrepareOptions): Promise<PreparedSamples> {
  options.pictures.layout({ width: 1, height: 1 }, options.pictureLimit); // refuses an impossible limit once, not for every picture
  if (dataset.samples.some(({ kind }) => kind === "dialogue")) requireTokenizer(options.tokenizer);
  const prepare = samplePreparer(options);
  const results: (PreparedSample | BadSample)[] = [];
  let done = 0;
  await forEachConcurrently(dataset.samples, async (sample, index) => {
    results[index] = await prepare(sample);
    options.onProgress?.(++done, dataset.samples.length);
  });
  const samples = results.filter((result) => "tokens" in result);
  const bad = [...dataset.bad, ...results.filter((result) => "message" in result)];
  if (bad.length > 0 && !(options.skipBad && samples.length > 0)) {
    throw badSamplesError(bad, dataset.samples.length + dataset.bad.length, options.insteadOfSkipping);
  }
  return { samples, skipped: bad };
}

/** Returns a function that prepares a sample; one that cannot be used becomes a bad sample. */
export function samplePreparer(
  options: PrepareOptions,
): (sample: Sample) => Promise<PreparedSample | BadSample> {
  const pictures = new PictureSizes(options);
  return (sample) =>
    prepareSample(sample, pictures, options).catch((error) => badSample(sample.source, error));
}

async function prepareSample(
  sample: Sample,
  pictures: PictureSizes,
  options: PrepareOptions,
): Promise<PreparedSample | BadSample> {
  if (options.tokenizer) refuseFarTooLong(sample, options.tokenizer, options.maxLength);
  const { tokenizer, pictureLimit, labelNewline = false } = options;
  const encode = options.purpose === "ask" ? encodePrompt : encodeRecordPrompt;
  const encoded =
    options.purpose === "train"
      ? encodeSample(sample, tokenizer, pictureLimit, { labelNewline })
      : encode(sample, tokenizer, pictureLimit);
  checkIds(encoded, options.vocabSize);
  checkLimits(sample, options.pictures);
  if (options.purpose === "train") checkAnswers(sample, encoded);
  const { sizes, grids } = await pictures.measure(encoded);
  const tokens = sampleRows(encoded, grids);
  if (tokens <= options.maxLength) return { ...encoded, grids, tokens };
  const ownLimit = sample.kind === "tokens" && sample.limits !== undefined;
  return tooLongSample(encoded, { form: options.pictures, grids, sizes, ownLimit }, options.maxLength);
}

function checkIds({ source, inputIds, labels }: EncodedSample, vocabSize: number): void {
  const known = (id: number): boolean => id >= 0 && id < vocabSize;
  const badId = inputIds.find((id) => id !== IMAGE_SLOT && !known(id));
  const badLabel = labels.find((label) => label !== IGNORE && !known(label));
  if (badId === undefined && badLabel === undefined) return;
  const what = badId === undefined ? `label ${badLabel}` : `token id ${badId}`;
  const fix = `Write ids of the model's own tokenizer; ${IMAGE_SLOT} in input_ids is a picture, ${IGNORE} in labels no label.`;
  throw sampleError(source, `has ${what}, which is outside the model's vocabulary of ${vocabSize}`, fix);
}

/** Refuses limits of a record that are meant for the pictures of other models. */
function checkLimits(sample: Sample, { limit: { option: own } }: PictureForm): void {
  if (sample.kind !== "tokens" || !sample.limits) return;
  const { option, others = [] } = sample.limits;
  const given = [option, ...others];
  const foreign = given.find((one) => one !== own);
  if (foreign === undefined) return;
  const clause = `limits its pictures by "${foreign}", which this model does not know`;
  const fix = given.includes(own)
    ? `Remove "${foreign}"; "${own}" limits this model's pictures.`
    : `Write "${own}" instead, or leave it out.`;
  throw sampleError(sample.source, clause, fix);
}

function checkAnswers(sample: Sample, { labels }: EncodedSample): void {
  if (sample.kind === "dialogue") {
    const empty = sample.turns.findIndex(
      ({ role, text, learned }) => role === "assistant" && learned !== false && text.trim() === "",
    );
    if (empty >= 0) {
      const clause = `has an empty answer (turn ${empty + 1} of ${sample.turns.length})`;
      throw sampleError(sample.source, clause, "Write the answer, or remove the turn.");
    }
  } else if (!sample.labels) {
    const fix = `Write "labels", one for each id: the id itself if it is learned, else ${IGNORE}. Without labels, ${commandLine("generate --data")} lets the model answer.`;
    throw sampleError(sample.source, "has input_ids without labels, which training and losses need", fix);
  }
  if (firstLabel(labels, 1) === undefined) {
    const fix = "A sample needs at least one turn of the assistant that is learned.";
    throw sampleError(sample.source, "has no answer to learn", fix);
  }
}

/** Sizes of pictures, each read once from its header, however many samples show the picture. */
class PictureSizes {
  readonly #sizes = new Map<string, Promise<PictureSize>>();
  readonly #form: PictureForm;
  readonly #compat: ImageCompat;
  readonly #thorough: boolean;

  constructor({ pictures, imageCompat, thorough = false }: PrepareOptions) {
    this.#form = pictures;
    this.#compat = imageCompat;
    this.#thorough = thorough;
  }

  /**
   * Returns sizes and layouts of a sample's pictures. Throws a UserError that names sample and picture if one
   * cannot be read or laid out.
   */
  async measure({
    source,
    images,
  }: EncodedSample): Promise<{ sizes: PictureSize[]; grids: PlacedPicture[] }> {
    try {
      const sizes = await Promise.all(images.map(({ path }) => this.#sizeOf(path)));
      const grids = images.map(({ path, limit }, index) =>
        this.#form.layout(sizes[index] as PictureSize, limit, pictureName(path)),
      );
      return { sizes, grids };
    } catch (error) {
      throw error instanceof UserError ? pictureError(source, error) : error;
    }
  }

  #sizeOf(path: string): Promise<PictureSize> {
    const size = this.#sizes.get(path) ?? this.#read(path);
    this.#sizes.set(path, size);
    return size;
  }

  async #read(path: string): Promise<PictureSize> {
    const size = await imageSize(path, this.#compat);
    if (size.width * size.height > MAX_PIXELS) {
      const pixels = `${size.width} x ${size.height} pixels`;
      throw new UserError(
        `${pictureName(path)}: ${pixels} are more than the limit of ${formatCount(MAX_PIXELS)}.`,
        {
          fix: "Scale the picture down.",
        },
      );
    }
    await refuseCutOff(path, { compat: this.#compat, thorough: this.#thorough });
    return size;
  }
}

/** Runs `body` for the items in order, some at a time, with pauses for the event loop. */
async function forEachConcurrently<T>(
  items: readonly T[],
  body: (item: T, index: number) => Promise<void>,
): Promise<void> {
  const entries = items.entries();
  const work = async (): Promise<void> => {
    for (const [index, item] of entries) {
      await body(item, index);
      if (index % SAMPLES_BEFORE_PAUSE === 0) await setImmediate();
    }
  };
  await Promise.all(Array.from({ length: CONCURRENT_SAMPLES }, work));
}
