/** Downloads large files: continues where a download broke off, and checks the hash of what arrived. */
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, open, readlink, rename, rm, stat, statfs, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { formatBytes, messageOf, UserError } from "../../errors.ts";
import { cannotWrite } from "../faults.ts";

export interface DownloadProgress {
  /** The file that is being downloaded. */
  file: string;
  doneBytes: number;
  totalBytes: number;
}

export interface DownloadOptions {
  onProgress?: (progress: DownloadProgress) => void;
  signal?: AbortSignal;
  /**
   * Wait before the second attempt at a file, in milliseconds; doubles with each attempt that brings nothing.
   */
  retryMs?: number;
}

export interface RemoteFile {
  path: string;
  bytes: number;
  /** SHA-256 of its bytes, or git's SHA-1 of it as a blob; undefined if the hub does not state one. */
  hash: string | undefined;
}

/** One revision of a repository on a hub. */
export interface Hub {
  /**
   * Gives a file's bytes from an offset on. Throws HubRefusal, or an error RANGES_IGNORED if the server sends
   * the whole file.
   */
  read(file: RemoteFile, startBytes: number): Promise<AsyncIterable<Uint8Array>>;
}

/** A request for one revision of a repository. */
export interface Asked {
  repository: string;
  revision: string;
  endpoint: string | undefined;
  accessToken: string | undefined;
  signal: AbortSignal | undefined;
}

export interface OpenedHub extends Hub {
  /** Commit of the revision; the revision itself if the hub does not tell. */
  commit: string;
  files: RemoteFile[];
}

/** The hub refused a request. */
export class HubRefusal extends Error {
  readonly status: number;

  constructor(status: number, message: string, cause?: unknown) {
    super(message, { cause });
    this.status = status;
  }
}

const MOST_FAILURES = 5; // at a file, one after another, without a byte in between
export const RANGES_IGNORED = "the server ignores byte ranges";

export interface Place {
  target: string;
  /** Folder of files named by their hashes, which target then links to. */
  blobs: string | undefined;
  /** Folder of files that say which commit a branch means. */
  refs?: string;
}

/** Downloads the files that are missing, and continues those that are incomplete. Throws UserError. */
export async function download(
  source: Hub,
  files: RemoteFile[],
  place: Place,
  options: DownloadOptions,
): Promise<void> {
  const { target, blobs } = place;
  const totalBytes = files.reduce((sum, { bytes }) => sum + bytes, 0);
  await mkdir(target, { recursive: true });
  await checkSpace(files, place);
  let doneBytes = 0;
  for (const file of files) {
    const path = join(target, file.path);
    const blob = blobOf(file, place);
    await mkdir(dirname(path), { recursive: true });
    await mkdir(dirname(blob), { recursive: true });
    const report = (fileBytes: number): void => {
      options.onProgress?.({ file: file.path, doneBytes: doneBytes + fileBytes, totalBytes });
    };
    const there = existsSync(blob) && (blobs !== undefined || (await hasHash(blob, file)));
    if (!there) await fetchFile(source, file, blob, { ...options, report });
    if (blobs) await link(path, blob);
    report(file.bytes);
    doneBytes += file.bytes;
  }
}

/** Returns the path for a file's bytes. */
function blobOf({ path, hash }: RemoteFile, { target, blobs }: Place): string {
  return blobs && hash ? join(blobs, hash) : join(target, path);
}

async function checkSpace(files: RemoteFile[], place: Place): Promise<void> {
  const { target } = place;
  const { bavail, bsize } = await statfs(target);
  const spareBytes = bavail * bsize;
  const toCome = await Promise.all(files.map((file) => bytesToCome(file, blobOf(file, place))));
  const neededBytes = toCome.reduce((sum, bytes) => sum + bytes, 0);
  if (neededBytes <= spareBytes) return;
  throw new UserError(
    `${target}: ${formatBytes(neededBytes)} are missing, and ${formatBytes(spareBytes)} are free.`,
    {
      fix: "Make room, or choose another place: --folder, or HF_HOME or MODELSCOPE_CACHE for the cache.",
    },
  );
}

async function bytesToCome({ bytes }: RemoteFile, path: string): Promise<number> {
  return existsSync(path) ? 0 : Math.max(0, bytes - (await bytesOf(partialOf(path))));
}

/** Returns the path of a file that is not complete yet. */
function partialOf(path: string): string {
  return `${path}.incomplete`;
}

type FetchOptions = DownloadOptions & { report: (fileBytes: number) => void };

/** Downloads one file to `path`. Each attempt continues where the last one stopped. */
async function fetchFile(source: Hub, file: RemoteFile, path: string, options: FetchOptions): Promise<void> {
  const { signal, retryMs = 1000 } = options;
  const partial = partialOf(path);
  for (let failures = 0, whole = false; !whole; ) {
    const beforeBytes = await bytesOf(partial);
    try {
      await appendRest(source, file, partial, options.report);
      whole = true;
    } catch (cause) {
      signal?.throwIfAborted();
      failures = (await bytesOf(partial)) > beforeBytes ? 1 : failures + 1;
      if (isDiskError(cause)) throw cannotWrite(partial, cause);
      if (isRefusal(cause) || failures === MOST_FAILURES) throw brokeOff(file, await bytesOf(partial), cause);
      if (messageOf(cause) === RANGES_IGNORED) await rm(partial);
      await sleep(retryMs * 2 ** (failures - 1), undefined, signal ? { signal } : {});
    }
  }
  if (!(await hasHash(partial, file))) {
    await rm(partial);
    throw new UserError(`${file.path} arrived damaged: its hash is not the one that the repository states.`, {
      fix: "Run the command again: lorafit downloads this file again.",
    });
  }
  await rename(partial, path);
}

async function appendRest(
  hub: Hub,
  file: RemoteFile,
  partial: string,
  report: (fileBytes: number) => void,
): Promise<void> {
  const handle = await open(partial, "a");
  try {
    let bytes = (await handle.stat()).size;
    if (bytes > file.bytes) {
      await handle.truncate(0);
      bytes = 0;
    }
    if (bytes === file.bytes) return;
    for await (const chunk of await hub.read(file, bytes)) {
      await handle.appendFile(chunk);
      bytes += chunk.length;
      report(bytes);
    }
    if (bytes < file.bytes) throw new Error("the connection was closed");
    await handle.sync();
  } finally {
    await handle.close();
  }
}

async function bytesOf(path: string): Promise<number> {
  return existsSync(path) ? (await stat(path)).size : 0;
}

async function hasHash(path: string, { bytes, hash }: RemoteFile): Promise<boolean> {
  if ((await bytesOf(path)) !== bytes) return false;
  if (hash === undefined) return true;
  const git = hash.length === 40;
  const digest = createHash(git ? "sha1" : "sha256");
  if (git) digest.update(`blob ${bytes}\0`);
  await pipeline(createReadStream(path, { highWaterMark: 2 ** 20 }), digest);
  return digest.digest("hex") === hash;
}

/** Makes `path` a relative link to a blob, so that the cache can be moved as a whole. */
async function link(path: string, blob: string): Promise<void> {
  const to = relative(dirname(path), blob);
  const is = await readlink(path).catch(() => undefined);
  if (is === to) return;
  await rm(path, { force: true });
  await symlink(to, path);
}

function isDiskError(cause: unknown): boolean {
  return (cause as NodeJS.ErrnoException | undefined)?.syscall === "write";
}

/** Tells whether asking again is of no use. */
function isRefusal(cause: unknown): boolean {
  return cause instanceof HubRefusal && cause.status < 500 && cause.status !== 429;
}

function brokeOff({ path, bytes }: RemoteFile, doneBytes: number, cause: unknown): UserError {
  const done = `${formatBytes(doneBytes)} of ${formatBytes(bytes)}`;
  return new UserError(`The download of ${path} broke off after ${done}: ${messageOf(cause)}.`, {
    fix: "Run the command again: it continues where it stopped.",
    cause,
  });
}
