/**
 * Folders of a run that are whole or absent, as src/checkpoint/disk.ts writes them: sealed with the size and SHA-256 of each file, so that
 * later damage shows, and mended after a crash.
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { openAsideFolder, writeFileWhole } from "../../checkpoint/disk.ts";

const SEAL = "seal.json";
/** What disk.ts begins the names of unfinished and of replaced folders with. */
const WRITING = ".writing-";
const REPLACED = ".replaced-";

type Seal = Record<string, { bytes: number; sha256: string }>;

/** Writes `target` in place of the one before, if there is one; after an error nothing has changed. */
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

/** Removes a folder; after a crash it is whole, or one that mendFolders removes. */
export async function removeFolder(folder: string): Promise<void> {
  const partial = join(dirname(folder), `${WRITING}${basename(folder)}`);
  await rm(partial, { recursive: true, force: true });
  await rename(folder, partial);
  await rm(partial, { recursive: true });
}

/** Cleans up after a crash: what is half written goes, what was replaced returns where its successor had not come. */
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

/** What is wrong with a sealed folder, in words, or undefined where every file is there to the byte. */
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
