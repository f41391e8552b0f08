/**
 * The form into which every weight format is read: tensors by name. Each is a range of a file, which is
 * mapped on first use.
 */
import { UserError } from "../errors.ts";
import { type MappedFile, mapFile } from "../torch/files.ts";
import type { DType, Tensor } from "../torch/tensor.ts";

export interface TensorEntry {
  name: string;
  dtype: DType;
  shape: number[];
  /** In elements; absent if the tensor is contiguous. */
  strides?: number[];
  /** Size of its elements in bytes. */
  bytes: number;
  file: string;
  /** Offset of its first element in the file. */
  offsetBytes: number;
}

export interface Checkpoint {
  /** File or folder, for errors. */
  readonly place: string;
  /** In the order of the files. */
  readonly names: readonly string[];
  has(name: string): boolean;
  /** Throws UserError if there is no such tensor. */
  entry(name: string): TensorEntry;
  /**
   * Returns a tensor on the CPU over the mapped file, whose pages are read on use. It belongs to the open
   * scope.
   */
  tensor(name: string): Tensor;
  /** Unmaps the files. Tensors that were returned before stay valid. */
  close(): void;
}

/** Makes a checkpoint of entries that have been checked against their files. */
export function mappedCheckpoint(place: string, entries: Map<string, TensorEntry>): Checkpoint {
  const files = new Map<string, MappedFile>();
  const entry = (name: string): TensorEntry => {
    const found = entries.get(name);
    if (!found) throw missingTensor(place, name);
    return found;
  };
  return {
    place,
    names: [...entries.keys()],
    has: (name) => entries.has(name),
    entry,
    tensor(name) {
      const found = entry(name);
      const file = files.get(found.file) ?? mapFile(found.file);
      files.set(found.file, file);
      return tensorAt(file, found);
    },
    close() {
      for (const file of files.values()) file.close();
      files.clear();
    },
  };
}

/**
 * Returns a checkpoint whose tensors have other names; official gives a stored name's. Throws UserError if
 * two tensors would have the same name.
 */
export function renamedCheckpoint(stored: Checkpoint, official: (name: string) => string): Checkpoint {
  const names = new Map(stored.names.map((name) => [official(name), name]));
  if (names.size < stored.names.length) {
    const twice = stored.names.find((name) => names.get(official(name)) !== name)!;
    throw new UserError(`${stored.place} has tensor "${twice}" under two names.`, {
      fix: "Download the checkpoint again into an empty folder.",
    });
  }
  const nameOf = (name: string): string => names.get(name) ?? name;
  return {
    place: stored.place,
    names: [...names.keys()],
    has: (name) => stored.has(nameOf(name)),
    entry: (name) => stored.entry(nameOf(name)),
    tensor: (name) => stored.tensor(nameOf(name)),
    close: () => stored.close(),
  };
}

function tensorAt(file: MappedFile, { dtype, shape, strides, offsetBytes }: TensorEntry): Tensor {
  if (!strides) return file.tensor(offsetBytes, dtype, shape);
  return file.tensor(offsetBytes, dtype, [spanOf(shape, strides)]).asStrided(shape, strides);
}

/** Counts the elements from the first to the last that a strided view touches. */
export function spanOf(shape: readonly number[], strides: readonly number[]): number {
  if (shape.includes(0)) return 0;
  return shape.reduce((span, extent, dim) => span + (extent - 1) * (strides[dim] ?? 0), 1);
}

function missingTensor(place: string, name: string): UserError {
  return new UserError(`${place}: there is no tensor "${name}".`, {
    fix: "Check that this is the checkpoint that you mean, and download it again if it is.",
  });
}
