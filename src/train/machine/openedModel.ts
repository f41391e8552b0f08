/** A checkpoint that is opened once: its files, and what they say of the model. */
import { type ModelFolder, resolveModel } from "../../checkpoint/folder.ts";
import {
  normType,
  openFamilyFolder,
  type PictureOptions,
  readModelConfig,
  tensorsOf,
  withPictureOptions,
} from "../../models/families.ts";
import type { ModelConfig } from "../../models/family.ts";
import type { Bases } from "../../models/precision/bases.ts";
import { storedBases } from "../../models/precision/storedBases.ts";
import type { DType } from "../../torch/tensor.ts";

export interface OpenedModel {
  files: ModelFolder;
  config: ModelConfig;
  /** Type of the norms, which are stored in full; it stands for the checkpoint's. */
  dtype: DType;
  /** Precisions of the frozen parts as they are stored. */
  bases: Bases;
}

/**
 * Opens a folder, or a downloaded repository, for the caller to close. pictures: options that change how the
 * model lays them out. Throws UserError if no family reads the folder.
 */
export function openModel(nameOrFolder: string, pictures: PictureOptions = {}): OpenedModel {
  const files = openFamilyFolder(resolveModel(nameOrFolder));
  try {
    const config = withPictureOptions(readModelConfig(files), pictures);
    const bases = storedBases(tensorsOf(config), files.weights);
    return { files, config, dtype: normType(files), bases };
  } catch (thrown) {
    files.weights.close();
    throw thrown;
  }
}

export function closeModel({ files }: OpenedModel): void {
  files.weights.close();
}

/** Opens a model for as long as a body runs, which must not be asynchronous. */
export function withOpened<T>(
  nameOrFolder: string,
  body: (opened: OpenedModel) => T,
  pictures: PictureOptions = {},
): T {
  const opened = openModel(nameOrFolder, pictures);
  try {
    return body(opened);
  } finally {
    closeModel(opened);
  }
}
