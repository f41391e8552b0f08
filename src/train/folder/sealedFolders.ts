/**
 * Folders of a run that are complete or absent, as src/checkpoint/files/disk.ts writes them. A seal holds the
 * size and SHA-256 of each file, so that later damage is found; after a crash, half-written folders are
 * removed.
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { openAsideFolder, writeFileWhole } from "../../checkpoint/files/disk.ts";

const SEAL = "seal.json";
/** Beginnings of the names that disk.ts gives to unfinished and to replaced folders. */
const WRITING = ".writing-";
const REPLACED = ".replaced-";

type Seal = Record<string, { bytes: number; sha256: string }>;

/**
 * Writes the folder `target`, in place of an earlier one if there is one. After an error nothing has changed.
 */
export async function writeFolder(
  target: string,
  write: (folder: string) => void,
  { sealed }: { sealed: boolean },
): Promise<void> {
  const aside = openAsideFolder(target);
  try {
    write(aside.folder);
    if (sealed) {
      writeFileWhole(
        join(aside.folder, SEAL),
        `${JSON.stringify(await sealOf(aside.folder), undefined, 1)}\n`,
      );
    }
    aside.commit();
  } finally {
    aside.discard();
  }
}

/** Removes a folder. After a crash the folder is complete, or mendFolders removes the rest. */
export async function removeFolder(folder: string): Promise<void> {
  const partial = join(dirname(folder), `${WRITING}${basename(folder)}`);
  await rm(partial, { recursive: true, force: true });
  await rename(folder, partial);
  await rm(partial, { recursive: true });
}

/**
 * Cleans up after a crash: removes half-written folders, and restores a replaced folder if its successor is
 * missing.
 */
export async function mendFolders(parent: string): Promise<void> {
  for (const name of await readdir(parent).catch(() => [])) {
    const target = join(parent, name.slice(REPLACED.length));
    if (name.startsWith(REPLACED) && !existsSync(target)) {
      await rename(join(parent, name), target);
    } else if (name.startsWith(WRITING) || name.startsWith(REPLACED)) {
      await rm(join(parent, name), { recursive: true });
    }
  }
}

/** Describes what is wrong with a sealed folder; undefined if every file is as it was written. */
export async function faultOf(folder: string): Promise<string | undefined> {
  const seal = await readSeal(folder);
  if (!seal) {
    return `${SEAL} is missing or unreadable`;
  }
  for (const [name, { bytes, sha256 }] of Object.entries(seal)) {
    const found = await stat(join(folder, name)).catch(() => undefined);
    if (found?.size !== bytes) {
      return found ? `${name} has ${found.size} bytes of ${bytes}` : `${name} is missing`;
    }
    if ((await sha256Of(join(folder, name))) !== sha256) {
      return `${name} has changed since it was written`;
    }
  }
  return undefined;
}

async function sealOf(folder: string): Promise<Seal> {
  const seal: Seal = {};
  for (const name of (await readdir(folder)).sort()) {
    const path = join(folder, name);
    seal[name] = { bytes: (await stat(path)).size, sha256: await sha256Of(path) };
  }
  return seal;
}

async function readSeal(folder: string): Promise<Seal | undefined> {
  try {
    return JSON.parse(await readFile(join(folder, SEAL), "utf8"));
  } catch {
    return undefined;
  }
}

async function sha256Of(path: string): Promise<string> {
  const hash = createHash("sha256");
  for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) {
    hash.update(chunk);
  }
  return hash.digest("hex");
}
