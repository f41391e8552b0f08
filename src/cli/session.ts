/**
 * Opens a model for eval, generate and chat, with adapter, tokenizer and picture workers, and closes all of
 * it afterwards.
 */

import { readAdapter } from "../checkpoint/adapter/peft.ts";
import { resolveModel } from "../checkpoint/folder.ts";
import type { ImageCompat } from "../data/pictures/imageCompat.ts";
import { openImagePool } from "../data/pictures/imagePool.ts";
import type { Tokenizer } from "../data/text/tokenizer.ts";
import { UserError } from "../errors.ts";
import {
  openFamilyFolder,
  type PictureOptions,
  pictureFormOf,
  pictureRulesOf,
  readModelConfig,
  tokenizerOf,
  withPictureOptions,
} from "../models/families.ts";
import type { ModelConfig } from "../models/family.ts";
import { disposeLora, loraFromAdapter } from "../models/lora.ts";
import { disposeModel, loadOpened, type Model } from "../models/weights.ts";
import { DEFAULT_POLICY } from "../step/policy.ts";
import { OutOfMemoryError } from "../torch/device.ts";
import { scope } from "../torch/tensor.ts";
import type { Evaluator } from "../train/evaluate/evaluate.ts";
import {
  type ComputeOptions,
  noticeIdleCard,
  noticeStored,
  noticeTwins,
  startCompute,
} from "../train/machine/compute.ts";
import { closeModel, openModel } from "../train/machine/openedModel.ts";
import type { Output } from "./output/output.ts";

/** A model that is not loaded yet: enough to check samples. */
export interface KnownModel {
  folder: string;
  config: ModelConfig;
  tokenizer: Tokenizer | undefined;
}

export interface SessionOptions extends ComputeOptions, PictureOptions {
  adapter?: string | undefined;
  image_compat: ImageCompat;
}

/**
 * Reads configuration and tokenizer of a model's folder. pictures: options that change how the model lays
 * them out. Throws UserError if no family reads the folder.
 */
export async function inspectModel(nameOrFolder: string, pictures: PictureOptions = {}): Promise<KnownModel> {
  const folder = resolveModel(nameOrFolder);
  const opened = openFamilyFolder(folder);
  try {
    const config = withPictureOptions(readModelConfig(opened), pictures);
    return { folder, config, tokenizer: await tokenizerOf(folder) };
  } finally {
    opened.weights.close();
  }
}

/**
 * Loads a model, runs the body, and closes the model. Throws UserError if it does not fit the memory limit.
 */
export async function withModel<T>(
  { folder, tokenizer, config }: KnownModel,
  options: SessionOptions,
  output: Output,
  body: (session: Evaluator) => Promise<T>,
): Promise<T> {
  const closers: (() => unknown)[] = [];
  try {
    const opened = openModel(folder, options);
    closers.push(() => closeModel(opened));
    const compute = startCompute(opened, options);
    noticeIdleCard(options.device, (text, about) => output.caveat(text, about));
    const model: Model = loadOpened(opened, compute);
    closers.push(() => disposeModel(model));
    const notice = (text: string): void => output.note(text);
    noticeStored(opened, notice);
    noticeTwins(compute.device, notice);
    const lora = scope(() =>
      options.adapter === undefined
        ? undefined
        : loraFromAdapter(config, readAdapter(options.adapter), {
            ...compute,
            gradients: "none",
          }),
    );
    if (lora) closers.push(() => disposeLora(lora));
    const pictures = openImagePool({ rules: pictureRulesOf(config), compat: options.image_compat });
    closers.push(() => pictures.close());
    return await body({ model, lora, tokenizer, pictures, policy: DEFAULT_POLICY });
  } catch (thrown) {
    throw thrown instanceof OutOfMemoryError ? outOfMemory(thrown, config) : thrown;
  } finally {
    for (const close of closers.reverse()) await close();
  }
}

function outOfMemory(cause: OutOfMemoryError, config: ModelConfig): UserError {
  return new UserError(`The model does not fit: ${cause.message}.`, {
    fix: `Pass more --memory, or ${pictureFormOf(config).limit.lower}.`,
    cause,
  });
}
