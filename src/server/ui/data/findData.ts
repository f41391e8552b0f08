/** Finds data sets and models below a folder. */
import { existsSync } from "node:fs";
import { open, readdir, stat } from "node:fs/promises";
import { extname, join, relative, resolve, sep } from "node:path";
import { configurationIn } from "../../../runs/knownRun.ts";
import { ADAPTER_FOLDER, BEST_FOLDER, OPTIONS_FILE } from "../../../train/folder/runLog.ts";
import { isBelow, realPathBelow } from "../../http/paths.ts";
import type { DataFile, DataFiles } from "./dataApi.ts";

/** Bounds of the search: files that are listed, folders that are read, and their depth. */
const MOST_FILES = 500;
const MOST_FOLDERS = 5_000;
const MOST_DEPTH = 6;
const PEEKED_BYTES = 512;

/** Folders that hold no data sets of people. */
const PASSED_OVER = /^(\..*|node_modules|__pycache__|checkpoint-\d+|adapter|best|tensorboard)$/;
/** Logs of runs. */
const LOGS = /^(steps|evals|answers|defects|events|facts|missed)\.jsonl$/;

/** A text of each kind of file begins so. No line matches in two ways: many empty ones take no time. */
const BEGINNINGS: Readonly<Record<string, RegExp>> = {
  ".jsonl": /^\s*\{/,
  ".json": /^\s*\[/,
  ".txt": /^(?:[^\S\n]*(?:#[^\n]*)?\n)*[^\S\n]*[^\s#][^\n]*\.jsonl?(?:[^\S\n]+[\d.]+)?[^\S\n]*(?:\n|$)/,
};

interface Found {
  files: DataFile[];
  /** Model folders. */
  models: Set<string>;
  adapters: string[];
  folders: number;
  isCut: boolean;
}

/** Lists data sets and models below the folder. folder: absolute, without symbolic links. */
export async function findData(folder: string): Promise<Omit<DataFiles, "limits">> {
  const found: Found = { files: [], models: new Set(), adapters: [], folders: 0, isCut: false };
  await search(folder, folder, 0, found);
  const named = await Promise.all(
    found.files.map(async (file) => ((await isData(folder, file)) ? [file] : [])),
  );
  const { adapters, isCut } = found;
  return { folder, files: merged(named.flat()), models: [...found.models].toSorted(), adapters, isCut };
}

async function search(root: string, folder: string, depth: number, found: Found): Promise<void> {
  if (depth > MOST_DEPTH || ++found.folders > MOST_FOLDERS || found.isCut) {
    found.isCut ||= found.folders > MOST_FOLDERS;
    return;
  }
  const entries = await readdir(folder, { withFileTypes: true }).catch(() => []);
  const names = new Set(entries.map(({ name }) => name));
  if (names.has("config.json") && (names.has("tokenizer.model") || holdsWeights(names))) {
    found.models.add(folder);
    return;
  }
  if (names.has(OPTIONS_FILE)) await takeRun(root, folder, found);
  for (const entry of entries.toSorted((one, other) => (one.name < other.name ? -1 : 1))) {
    const path = join(folder, entry.name);
    if (entry.isDirectory() && !PASSED_OVER.test(entry.name)) await search(root, path, depth + 1, found);
    else if (entry.isFile() && extname(entry.name) in BEGINNINGS && !LOGS.test(entry.name))
      await take(root, path, found);
  }
}

function holdsWeights(names: ReadonlySet<string>): boolean {
  return [...names].some((name) => /\.(safetensors|bin)(\.index\.json)?$/.test(name));
}

async function take(root: string, path: string, found: Found, run?: string): Promise<void> {
  if (found.files.length >= MOST_FILES) {
    found.isCut = true;
    return;
  }
  const size = await stat(path).then(
    (is) => (is.isFile() ? is.size : 0),
    () => 0,
  );
  const below = relative(root, path).replaceAll(sep, "/");
  if (size > 0) found.files.push({ path: below, bytes: size, ...(run !== undefined && { run }) });
}

/** Takes model and data of a run. Its paths start from where it was started, which nobody knows now. */
async function takeRun(root: string, folder: string, found: Found): Promise<void> {
  const { model, data, eval_data } = configurationIn(folder);
  if (typeof model === "string")
    found.models.add(existsSync(resolve(root, model)) ? resolve(root, model) : model);
  for (const name of [ADAPTER_FOLDER, BEST_FOLDER])
    if (existsSync(join(folder, name, "adapter_config.json"))) found.adapters.push(join(folder, name));
  const run = relative(root, folder).replaceAll(sep, "/") || ".";
  for (const file of [data, eval_data].flat()) {
    const path = typeof file === "string" ? realPathBelow(root, file) : undefined;
    if (path !== undefined) await take(root, path, found, run);
  }
}

async function isData(root: string, { path }: DataFile): Promise<boolean> {
  const real = realPathBelow(root, path);
  if (real === undefined || !isBelow(root, real)) return false;
  const handle = await open(real).catch(() => undefined);
  if (!handle) return false;
  try {
    const { bytesRead, buffer } = await handle.read(Buffer.alloc(PEEKED_BYTES), 0, PEEKED_BYTES, 0);
    const text = buffer.toString("utf8", 0, bytesRead);
    return BEGINNINGS[extname(path)]?.test(text) ?? false;
  } catch {
    return false;
  } finally {
    await handle.close();
  }
}

/** Returns each file once, with the run that uses it, in the order of paths. */
function merged(files: readonly DataFile[]): DataFile[] {
  const byPath = new Map<string, DataFile>();
  for (const file of files) byPath.set(file.path, { ...file, ...byPath.get(file.path) });
  return [...byPath.values()].toSorted((one, other) => (one.path < other.path ? -1 : 1));
}
