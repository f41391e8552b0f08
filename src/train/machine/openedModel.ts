/** A checkpoint that is opened once: its files, and what they say of the model. */
import { type ModelFolder, resolveModel } from "../../checkpoint/folder.ts";
import { normType, openFamilyFolder, readModelConfig, tensorsOf } from "../../models/families.ts";
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
 * Opens a folder, or a downloaded repository, for the caller to close. Throws UserError if no family reads
 * it.
 */
export function openModel(nameOrFolder: string): OpenedModel {
  const files = openFamilyFolder(resolveModel(nameOrFolder));
  try {
    const config = readModelConfig(files);
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
export function withOpened<T>(nameOrFolder: string, body: (opened: OpenedModel) => T): T {
  const opened = openModel(nameOrFolder);
  try {
    return body(opened);
  } finally {
    closeModel(opened);
  }
}
