/**
 * Downloads of model repositories, by the npm package of the Hugging Face hub, which lacks two things that files of gigabytes
 * need: going on where a broken download stopped, and a check of what arrived.
 */
import { createHash } from "node:crypto";
import { createReadStream, existsSync } from "node:fs";
import { mkdir, open, readlink, rename, rm, stat, statfs, symlink } from "node:fs/promises";
import { dirname, join, relative } from "node:path";
import { pipeline } from "node:stream/promises";
import { setTimeout as sleep } from "node:timers/promises";
import { downloadFile, HubApiError, type ListFileEntry, listFiles, modelInfo } from "@huggingface/hub";
import { formatBytes, messageOf, UserError } from "../errors.ts";
import { cacheFolder, isRepositoryName, repositoryFolder } from "./cache.ts";
import { writeFileWhole } from "./disk.ts";
import { cannotWrite } from "./faults.ts";
import { isWeightsFile } from "./folder.ts";

export interface PullProgress {
  /** What is being downloaded. */
  file: string;
  doneBytes: number;
  totalBytes: number;
}

export interface PullOptions {
  /** A branch, a tag or a commit; main where left out. */
  revision?: string;
  /** Where the files go; the Hugging Face cache where left out. */
  folder?: string;
  /** Address of the hub; HF_ENDPOINT, or the package's own, where left out. */
  endpoint?: string;
  /** For repositories that ask for one; HF_TOKEN where left out. */
  accessToken?: string;
  onProgress?: (progress: PullProgress) => void;
  signal?: AbortSignal;
  /** Wait before the second attempt at a file; doubles with each that brings nothing. */
  retryMs?: number;
}

const MOST_FAILURES = 5; // at a file, one after another, without a byte in between
const RANGES_IGNORED = "the server ignores byte ranges";

/**
 * Downloads a model repository and returns its folder. What is there already is not fetched again, and a file that broke off
 * goes on where it stopped. Weights come in one form only: safetensors where there are any. Throws UserError.
 */
export async function pull(repository: string, options: PullOptions = {}): Promise<string> {
  const { revision = "main", folder } = options;
  if (!isRepositoryName(repository) || !/^\w[\w./-]*$/.test(revision) || revision.includes("..")) {
    throw new UserError(`"${repository}" at "${revision}" is no repository.`, {
      fix: "Write it as org/name; a revision is a branch, a tag or a commit.",
    });
  }
  const hub = connect(options);
  try {
    const { sha: commit } = await modelInfo({
      ...hub,
      name: repository,
      revision,
      additionalFields: ["sha"],
    });
    const source = { hub, repository, commit };
    const files = await wantedFiles(source);
    const cache = repositoryFolder(cacheFolder(), repository);
    const target = folder ?? join(cache, "snapshots", commit);
    const blobs = folder === undefined ? join(cache, "blobs") : undefined;
    await download(source, files, { target, blobs }, options);
    if (blobs && revision !== commit) await writeRef(cache, revision, commit);
    return target;
  } catch (cause) {
    options.signal?.throwIfAborted();
    throw asUserError(cause, repository, revision);
  }
}

interface Connection {
  hubUrl?: string;
  accessToken?: string;
  fetch: typeof fetch;
}

interface Source {
  hub: Connection;
  repository: string;
  commit: string;
}

function connect({ endpoint, accessToken, signal }: PullOptions): Connection {
  const hubUrl = (endpoint ?? process.env.HF_ENDPOINT)?.replace(/\/+$/, "");
  const token = accessToken ?? process.env.HF_TOKEN;
  return {
    ...(hubUrl ? { hubUrl } : {}),
    ...(token ? { accessToken: token } : {}),
    fetch: async (input, init) => {
      const response = await fetch(input, { ...init, ...(signal ? { signal } : {}) });
      const range = new Headers(init?.headers).get("range");
      const resumes = range && !range.startsWith("bytes=0-");
      if (resumes && response.status === 200) throw new Error(RANGES_IGNORED);
      return response;
    },
  };
}

interface RemoteFile {
  path: string;
  bytes: number;
  /** SHA-256 of its bytes (large files), or git's SHA-1 of it as a blob. */
  hash: string;
}

async function wantedFiles({ hub, repository, commit }: Source): Promise<RemoteFile[]> {
  const files: RemoteFile[] = [];
  for await (const entry of listFiles({ ...hub, repo: repository, revision: commit, recursive: true })) {
    if (entry.type === "file") files.push(remoteFile(entry));
  }
  const weights = files.map(({ path }) => path).filter(isWeightsFile);
  const form = weights.some((path) => path.includes(".safetensors")) ? ".safetensors" : ".bin";
  return files.filter(({ path }) => !isWeightsFile(path) || path.includes(form));
}

/** A file of the listing, whose path and hash become paths here and so are not taken on trust. */
function remoteFile({ path, size, lfs, oid }: ListFileEntry): RemoteFile {
  const hash = lfs?.oid ?? oid ?? "";
  const parts = path.split("/");
  if (parts.some((part) => part === "" || part === "." || part === ".." || /[\\:]/.test(part))) {
    throw new UserError(`The repository has a file called "${path}", which is refused.`, {
      fix: "Such a name could lie outside of the folder: don't use this repository.",
    });
  }
  if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash)) throw new Error(`"${path}" comes without a hash`);
  return { path, bytes: size, hash };
}

interface Place {
  target: string;
  /** Folder of files named by their hashes, which target then links to. */
  blobs: string | undefined;
}

async function download(
  source: Source,
  files: RemoteFile[],
  place: Place,
  options: PullOptions,
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

/** Where a file's bytes go. */
function blobOf({ path, hash }: RemoteFile, { target, blobs }: Place): string {
  return blobs ? join(blobs, hash) : join(target, path);
}

async function checkSpace(files: RemoteFile[], place: Place): Promise<void> {
  const { target } = place;
  const { bavail, bsize } = await statfs(target);
  const spareBytes = bavail * bsize;
  const toCome = await Promise.all(files.map((file) => bytesToCome(file, blobOf(file, place))));
  const neededBytes = toCome.reduce((sum, bytes) => sum + bytes, 0);
  if (neededBytes <= spareBytes) return;
  throw new UserError(
    `${target}: ${formatBytes(neededBytes)} are to come, ${formatBytes(spareBytes)} are free.`,
    {
      fix: "Make room, or choose another place: HF_HOME for the cache, --folder for a folder.",
    },
  );
}

async function bytesToCome({ bytes }: RemoteFile, path: string): Promise<number> {
  return existsSync(path) ? 0 : Math.max(0, bytes - (await bytesOf(partialOf(path))));
}

/** Where a file is until it is whole. */
function partialOf(path: string): string {
  return `${path}.incomplete`;
}

type FetchOptions = PullOptions & { report: (fileBytes: number) => void };

/** Downloads one file to `path`, in attempts that each go on where the last one stopped. */
async function fetchFile(
  source: Source,
  file: RemoteFile,
  path: string,
  options: FetchOptions,
): Promise<void> {
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
      fix: "Run the command again: this file is fetched anew.",
    });
  }
  await rename(partial, path);
}

async function appendRest(
  { hub, repository, commit }: Source,
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
    const blob = await downloadFile({
      ...hub,
      repo: repository,
      path: file.path,
      revision: commit,
      xet: false,
    });
    if (blob?.size !== file.bytes) throw new Error(`the hub has ${blob?.size ?? "no"} bytes of it`);
    for await (const chunk of blob.slice(bytes).stream()) {
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
  const git = hash.length === 40;
  const digest = createHash(git ? "sha1" : "sha256");
  if (git) digest.update(`blob ${bytes}\0`);
  await pipeline(createReadStream(path, { highWaterMark: 2 ** 20 }), digest);
  return digest.digest("hex") === hash;
}

/** Makes `path` a relative link to a blob of the cache, which may so be moved as a whole. */
async function link(path: string, blob: string): Promise<void> {
  const to = relative(dirname(path), blob);
  const is = await readlink(path).catch(() => undefined);
  if (is === to) return;
  await rm(path, { force: true });
  await symlink(to, path);
}

/** Says, once all is there, which commit a branch or tag means. */
async function writeRef(cache: string, revision: string, commit: string): Promise<void> {
  const ref = join(cache, "refs", revision);
  await mkdir(dirname(ref), { recursive: true });
  writeFileWhole(ref, commit);
}

function isDiskError(cause: unknown): boolean {
  return (cause as NodeJS.ErrnoException | undefined)?.syscall === "write";
}

/** Whether the hub says no, so that asking again is of no use. */
function isRefusal(cause: unknown): boolean {
  return cause instanceof HubApiError && cause.statusCode < 500 && cause.statusCode !== 429;
}

function brokeOff({ path, bytes }: RemoteFile, doneBytes: number, cause: unknown): UserError {
  const done = `${formatBytes(doneBytes)} of ${formatBytes(bytes)}`;
  return new UserError(`The download of ${path} broke off after ${done}: ${messageOf(cause)}.`, {
    fix: "Run the command again: it goes on where it stopped.",
    cause,
  });
}

function asUserError(cause: unknown, repository: string, revision: string): unknown {
  if (cause instanceof UserError) return cause;
  if (cause instanceof HubApiError) {
    const refused = cause.statusCode === 401 || cause.statusCode === 403;
    const what = refused ? "may not be read" : cause.statusCode === 404 ? "does not exist" : "can't be had";
    return new UserError(`${repository} at ${revision} ${what}: ${cause.message}.`, {
      fix: refused
        ? "Check the name; if you must ask for access, do so on its page and set HF_TOKEN."
        : "Check the name and the revision.",
      cause,
    });
  }
  if (cause instanceof TypeError && cause.message === "fetch failed") {
    return new UserError(`The hub can't be reached: ${messageOf(cause.cause ?? cause)}.`, {
      fix: "Check the network, a proxy, and HF_ENDPOINT; or copy the model's folder here and name it.",
      cause,
    });
  }
  return cannotWrite(repository, cause);
}
