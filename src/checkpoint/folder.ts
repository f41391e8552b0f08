/**
 * A model folder as Hugging Face lays it out: config.json, and weights in one file or in shards with an
 * index.
 */
import { existsSync, statSync } from "node:fs";
import { join } from "node:path";
import { UserError } from "../errors.ts";
import { commandLine } from "../program.ts";
import { linesOf } from "./check.ts";
import { type Checkpoint, mappedCheckpoint, type TensorEntry } from "./checkpoint.ts";
import { cacheFolder, findSnapshot, isRepositoryName, modelScopeFolder } from "./download/cache.ts";
import { damaged } from "./faults.ts";
import { readJsonObject } from "./files/disk.ts";
import { readHeader } from "./files/safetensorsHeader.ts";
import { readTorchBin } from "./files/torchBin.ts";

export interface ModelFolder {
  folder: string;
  /** Content of config.json. */
  config: Record<string, unknown>;
  weights: Checkpoint;
}

/** Forms of weights, the preferred one first. */
// biome-ignore format: columns line up
const FORMS = [
  { file: "model.safetensors", index: "model.safetensors.index.json", read: (path: string) => readHeader(path).entries },
  { file: "pytorch_model.bin", index: "pytorch_model.bin.index.json", read: readTorchBin },
] as const;

/**
 * Opens a folder. Throws UserError if config.json or weights are missing, damaged, or different from the
 * index.
 */
export function openModelFolder(folder: string): ModelFolder {
  const configFile = join(folder, "config.json");
  if (!existsSync(configFile)) {
    throw new UserError(`${folder} is not a model folder: it has no config.json.`, {
      fix: "Name the folder that has config.json and the weights.",
    });
  }
  return { folder, config: readJsonObject(configFile), weights: openWeights(folder) };
}

/** Finds a model's folder by its path, or by "org/name" if the repository was downloaded. */
export function resolveModel(nameOrPath: string): string {
  if (existsSync(nameOrPath)) return folderAt(nameOrPath);
  if (!isRepositoryName(nameOrPath)) {
    throw new UserError(`There is no folder ${nameOrPath}.`, {
      fix: "Name a folder with a model, or a repository as org/name.",
    });
  }
  const snapshot = findSnapshot(cacheFolder(), nameOrPath);
  if (snapshot) return snapshot;
  const plain = modelScopeFolder(nameOrPath);
  if (existsSync(join(plain, "config.json"))) return plain;
  throw new UserError(`${nameOrPath} is neither a folder nor a downloaded repository in ${cacheFolder()}.`, {
    fix: `Download it:  ${commandLine(`pull ${nameOrPath}`)}`,
  });
}

function folderAt(path: string): string {
  if (statSync(path).isDirectory()) return path;
  throw new UserError(`${path} is a file.`, { fix: "Name the folder that has config.json and the weights." });
}

function openWeights(folder: string): Checkpoint {
  for (const { file, index, read } of FORMS) {
    if (existsSync(join(folder, file))) return mappedCheckpoint(folder, read(join(folder, file)));
    if (existsSync(join(folder, index))) return mappedCheckpoint(folder, readShards(folder, index, read));
  }
  const names = FORMS.flatMap(({ file, index }) => [file, index]);
  throw new UserError(`${folder} has no weights: none of ${names.join(", ")} is there.`, {
    fix: "Download the model again, with its weights.",
  });
}

/** Reads the entries of all shards, which must exist and hold exactly what the index says. */
function readShards(
  folder: string,
  index: string,
  read: (path: string) => Map<string, TensorEntry>,
): Map<string, TensorEntry> {
  const indexFile = join(folder, index);
  const shardOf = weightMap(indexFile);
  const shards = [...new Set(shardOf.values())];
  const missing = shards.filter((shard) => !existsSync(join(folder, shard)));
  if (missing.length > 0) {
    throw new UserError(
      `${folder}: ${missing.length} of ${shards.length} shards are missing:\n${linesOf(missing, "  ")}`,
      {
        fix: `Download them: ${commandLine("pull")} continues where a download stopped.`,
      },
    );
  }
  const entries = new Map<string, TensorEntry>();
  for (const shard of shards) {
    const path = join(folder, shard);
    for (const [name, entry] of read(path)) {
      if (shardOf.get(name) !== shard)
        throw damaged(path, `${index} does not say that it has tensor "${name}"`);
      entries.set(name, entry);
    }
  }
  for (const [name, shard] of shardOf) {
    if (!entries.has(name))
      throw damaged(join(folder, shard), `it has no tensor "${name}", though ${index} says so`);
  }
  return entries;
}

/** Reads an index: from tensors to shards, which must lie in the same folder. */
function weightMap(indexFile: string): Map<string, string> {
  const { weight_map } = readJsonObject(indexFile);
  const items = typeof weight_map === "object" && weight_map !== null ? Object.entries(weight_map) : [];
  const sound =
    items.length > 0 && items.every(([, shard]) => typeof shard === "string" && isFileName(shard));
  if (!sound) throw damaged(indexFile, "its weight_map is not a table from tensors to files of this folder");
  return new Map(items as [string, string][]);
}

function isFileName(name: string): boolean {
  return !/[/\\]/.test(name) && name !== "" && name !== "." && name !== "..";
}

/** Tells whether a file's name is that of weights, in any format, or of their index. */
export function isWeightsFile(name: string): boolean {
  return /\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|onnx|gguf)(\.index\.json)?$/.test(name);
}
