/**
 * Reads safetensors files through a mapping, and writes them tensor by tensor. The format is in
 * safetensorsHeader.ts.
 */
import { join } from "node:path";
import { type DType, dtypeBytes } from "../../torch/dtypes.ts";
import { scope, type Tensor } from "../../torch/tensor.ts";
import { type Checkpoint, mappedCheckpoint } from "../checkpoint.ts";
import { numelOf } from "../dtypes.ts";
import { type AsideFile, openAsideFile, writeFileWhole } from "./disk.ts";
import { encodeHeader, readHeader } from "./safetensorsHeader.ts";

const PIECE_BYTES = 16 * 2 ** 20;

/** A tensor that has yet to be read or computed. read() is called once, in a scope, when it is its turn. */
export interface TensorSource {
  name: string;
  dtype: DType;
  shape: readonly number[];
  read(): Tensor;
}

/** Opens the tensors of one file. Throws UserError unless it is a whole and sound safetensors file. */
export function openSafetensors(path: string): Checkpoint {
  return mappedCheckpoint(path, readHeader(path).entries);
}

/** Writes tensors to one file, whole or not at all. */
export function writeSafetensors(
  path: string,
  tensors: Iterable<readonly [string, Tensor]>,
  metadata: Record<string, string> = {},
): void {
  const sources = Array.from(tensors, ([name, tensor]) => ({
    name,
    dtype: tensor.dtype,
    shape: tensor.shape,
    read: () => tensor,
  }));
  for (const _ of writeSources(path, sources, metadata));
}

/**
 * Writes one file, whole or not at all, with one tensor in memory at a time. Yields each tensor's bytes when
 * written.
 */
function* writeSources(
  path: string,
  sources: readonly TensorSource[],
  metadata: Record<string, string> = {},
): Generator<number, void> {
  const ordered = sources.toSorted((left, right) => dtypeBytes(right.dtype) - dtypeBytes(left.dtype)); // keeps each aligned
  const file = openAsideFile(path);
  try {
    file.write(encodeHeader(ordered, metadata));
    for (const source of ordered) {
      scope(() => writeTensor(file, source));
      yield bytesOf(source);
    }
    file.commit();
  } finally {
    file.discard();
  }
}

/**
 * Writes a model's weights as Hugging Face lays them out: model.safetensors, or beyond shardBytes
 * model-00001-of-0000N.safetensors and an index. Yields each tensor's bytes when written.
 */
export function* writeShards(
  folder: string,
  sources: readonly TensorSource[],
  { shardBytes, metadata = { format: "pt" } }: { shardBytes: number; metadata?: Record<string, string> },
): Generator<number, void> {
  const shards = splitByBytes(sources, shardBytes);
  const name = (index: number): string => shardName(index, shards.length);
  for (const [index, shard] of shards.entries()) {
    yield* writeSources(join(folder, name(index)), shard, metadata);
  }
  if (shards.length === 1) return;
  const totalBytes = sources.reduce((sum, source) => sum + bytesOf(source), 0);
  const shardOf = shards.flatMap((shard, at) => shard.map((source) => [source.name, name(at)] as const));
  writeShardIndex(folder, new Map(shardOf), totalBytes);
}

/** Returns Hugging Face's name for a shard. */
export function shardName(index: number, shards: number): string {
  return shards === 1 ? "model.safetensors" : `model-${digits(index + 1)}-of-${digits(shards)}.safetensors`;
}

/** Writes the index: from tensors to shards. */
export function writeShardIndex(
  folder: string,
  shardOf: ReadonlyMap<string, string>,
  totalBytes: number,
): void {
  const index = { metadata: { total_size: totalBytes }, weight_map: Object.fromEntries(shardOf) };
  writeFileWhole(join(folder, "model.safetensors.index.json"), `${JSON.stringify(index, undefined, 2)}\n`);
}

/** Groups tensors in order; a group has at most shardBytes, or a single tensor. */
function splitByBytes(sources: readonly TensorSource[], shardBytes: number): TensorSource[][] {
  const shards: TensorSource[][] = [[]];
  let filledBytes = 0;
  for (const source of sources) {
    const bytes = bytesOf(source);
    if (filledBytes > 0 && filledBytes + bytes > shardBytes) {
      shards.push([]);
      filledBytes = 0;
    }
    shards.at(-1)!.push(source);
    filledBytes += bytes;
  }
  return shards;
}

function writeTensor(file: AsideFile, { name, dtype, shape, read }: TensorSource): void {
  const tensor = read();
  if (tensor.dtype !== dtype || tensor.shape.join() !== shape.join()) {
    throw new Error(`"${name}" is ${tensor.dtype} [${tensor.shape}], its header says ${dtype} [${shape}]`);
  }
  for (const piece of piecesOf(tensor)) file.write(piece.toBytes());
}

/** Cuts a tensor into flat views; each is copied from its device on its own. */
export function* piecesOf(tensor: Tensor): Generator<Tensor> {
  const flat = tensor.contiguous().view([-1]);
  const elements = PIECE_BYTES / dtypeBytes(tensor.dtype);
  for (let start = 0; start < flat.numel; start += elements) {
    yield flat.narrow(0, start, Math.min(elements, flat.numel - start));
  }
}

function bytesOf({ dtype, shape }: TensorSource): number {
  return numelOf(shape) * dtypeBytes(dtype);
}

function digits(number: number): string {
  return String(number).padStart(5, "0");
}
