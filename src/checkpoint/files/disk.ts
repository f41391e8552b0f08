/**
 * Writes files and folders that appear whole or not at all: written beside their place, flushed to disk, then
 * renamed.
 */
import {
  closeSync,
  existsSync,
  fsyncSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statfsSync,
  statSync,
  writeSync,
} from "node:fs";
import { basename, dirname, join, resolve } from "node:path";
import { formatBytes, UserError } from "../../errors.ts";
import { cannotRead, cannotWrite, damaged } from "../faults.ts";
import { jsonExcess } from "./jsonLimits.ts";

/** Something that is invisible until it is committed. */
export interface Aside {
  /** Flushes it and renames it, replacing what has that name. */
  commit(): void;
  /** Removes it; does nothing after a commit. */
  discard(): void;
}

export interface AsideFile extends Aside {
  write(bytes: Uint8Array): void;
}

export interface AsideFolder extends Aside {
  /** Folder to write its files into. */
  readonly folder: string;
}

/** Begins a file. Throws UserError if the disk refuses, as all functions below do. */
export function openAsideFile(path: string): AsideFile {
  const aside = beside(path, "writing");
  let file: number | undefined = attempt(path, () => openSync(aside, "w"));
  const close = (): void => {
    if (file !== undefined) closeSync(file);
    file = undefined;
  };
  return {
    write: (bytes) => attempt(path, () => writeAll(file!, bytes)),
    commit: () =>
      attempt(path, () => {
        fsyncSync(file!);
        close();
        renameSync(aside, path);
        flush(dirname(path));
      }),
    discard() {
      close();
      rmSync(aside, { force: true });
    },
  };
}

/** Begins a folder. */
export function openAsideFolder(path: string): AsideFolder {
  const aside = beside(path, "writing");
  const replaced = beside(path, "replaced");
  attempt(path, () => {
    makeFolder(dirname(aside));
    rmSync(aside, { recursive: true, force: true });
    mkdirSync(aside);
  });
  return {
    folder: aside,
    commit: () =>
      attempt(path, () => {
        for (const name of readdirSync(aside)) flush(join(aside, name));
        flush(aside);
        if (isEmptyFolder(path)) return fill(path, aside);
        if (existsSync(path)) {
          rmSync(replaced, { recursive: true, force: true });
          renameSync(path, replaced);
        }
        renameSync(aside, path);
        flush(dirname(path));
        rmSync(replaced, { recursive: true, force: true });
      }),
    discard() {
      rmSync(aside, { recursive: true, force: true });
      if (!existsSync(replaced)) return;
      if (existsSync(path)) rmSync(replaced, { recursive: true, force: true });
      else renameSync(replaced, path); // the successor did not get its name
    },
  };
}

/** A file that is being written changes more often than this. */
const LEFT_MS = 60_000;

/**
 * Finds what killed processes have left beside a path. Leftovers under the path's own name are removed when
 * it is written again.
 */
export function leftoversBeside(path: string): string[] {
  const [folder, own] = [dirname(resolve(path)), beside(path, "writing")];
  try {
    return readdirSync(folder)
      .filter((name) => name.startsWith(".writing-"))
      .map((name) => join(folder, name))
      .filter((aside) => aside !== own && Date.now() - writtenAtMs(aside) >= LEFT_MS);
  } catch {
    return []; // no folder yet, one that may not be read, or a process that has just ended its work
  }
}

/** Returns when a file, or anything in a folder, was last written. */
function writtenAtMs(path: string): number {
  const found = lstatSync(path);
  const names = found.isDirectory() ? readdirSync(path) : [];
  return names.reduce((latest, name) => Math.max(latest, writtenAtMs(join(path, name))), found.mtimeMs);
}

/**
 * Makes a folder, and those above it if they are missing. Node's own recursive call never returns if the
 * system refuses one of them (/proc).
 */
export function makeFolder(path: string): void {
  const whole = resolve(path);
  if (existsSync(whole)) {
    if (statSync(whole).isDirectory()) return;
    throw new UserError(`${path} is a file, and should be a folder.`, {
      fix: "Name another folder, or remove the file.",
    });
  }
  makeFolder(dirname(whole));
  attempt(path, () => {
    try {
      mkdirSync(whole);
    } catch (cause) {
      if (!existsSync(whole)) throw cause; // or another process was faster
    }
  });
}

/** Throws UserError if a file can't be written, before anything is computed for it. */
export function requireWritable(path: string): void {
  if (existsSync(path) && statSync(path).isDirectory()) {
    throw new UserError(`${path} is a folder, and should be a file.`, {
      fix: `Name a file, as ${join(path, basename(path))}.`,
    });
  }
  const file = openAsideFile(path);
  file.discard();
}

/** Fills an empty folder instead of replacing it: it may be someone's working folder, or a mount point. */
function fill(path: string, aside: string): void {
  for (const name of readdirSync(aside)) renameSync(join(aside, name), join(path, name));
  flush(path);
  rmSync(aside, { recursive: true });
}

function isEmptyFolder(path: string): boolean {
  return existsSync(path) && statSync(path).isDirectory() && readdirSync(path).length === 0;
}

/** Throws UserError unless the folder is empty or does not exist. */
export function requireNewFolder(path: string): void {
  if (!existsSync(path) || isEmptyFolder(path)) return;
  throw new UserError(`${path} is not an empty folder.`, { fix: "Name a new folder, or remove this one." });
}

/** Throws UserError if the disk has less free space than is about to be written. */
export function requireSpace(path: string, bytes: number): void {
  let folder = dirname(resolve(path));
  while (!existsSync(folder)) folder = dirname(folder);
  const { bavail, bsize } = attempt(path, () => statfsSync(folder));
  const freeBytes = bavail * bsize;
  if (freeBytes >= bytes) return;
  throw new UserError(
    `${path} takes ${formatBytes(bytes)}, and its disk has ${formatBytes(freeBytes)} free.`,
    {
      fix: "Make room, or write to another disk.",
    },
  );
}

/** Writes a file, whole or not at all. */
export function writeFileWhole(path: string, content: string | Uint8Array): void {
  const file = openAsideFile(path);
  try {
    file.write(typeof content === "string" ? Buffer.from(content) : content);
    file.commit();
  } finally {
    file.discard();
  }
}

/** Largest configuration or index, in bytes. */
const MOST_JSON_BYTES = 2 ** 25;
const JSON_LIMITS = { depth: 64, items: 2 ** 18 };

/**
 * Reads a JSON object from a file. Throws UserError if it can't be read, is none, or is larger than any
 * configuration.
 */
export function readJsonObject(path: string): Record<string, unknown> {
  let json: unknown;
  try {
    const { size } = statSync(path);
    const bytes = size > MOST_JSON_BYTES ? undefined : readFileSync(path);
    const excess = bytes ? jsonExcess(bytes, JSON_LIMITS) : `has ${formatBytes(size)}`;
    if (excess) throw damaged(path, `it ${excess}, more than any file of its kind`);
    json = JSON.parse(bytes!.toString("utf8"));
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cannotRead(path, cause);
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    throw new UserError(`${path} is not a JSON object.`, { fix: "Download or copy the file again." });
  }
  return json as Record<string, unknown>;
}

/** Runs `body`; errors of the disk become a UserError that names the path. */
function attempt<T>(path: string, body: () => T): T {
  try {
    return body();
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
}

function beside(path: string, state: "writing" | "replaced"): string {
  const whole = resolve(path); // "." has a name too
  return join(dirname(whole), `.${state}-${basename(whole)}`);
}

function writeAll(file: number, bytes: Uint8Array): void {
  let written = 0;
  while (written < bytes.length) written += writeSync(file, bytes, written);
}

function flush(path: string): void {
  const file = openSync(path, "r");
  try {
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
}
