/** `pull`: downloads of model repositories from Hugging Face's hub or ModelScope. */
import { mkdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { messageOf, UserError } from "../../errors.ts";
import { cannotWrite, quoted } from "../faults.ts";
import { writeFileWhole } from "../files/disk.ts";
import { isWeightsFile } from "../folder.ts";
import { cacheFolder, isRepositoryName, modelScopeFolder, repositoryFolder } from "./cache.ts";
import {
  type Asked,
  type DownloadOptions,
  download,
  HubRefusal,
  type OpenedHub,
  type Place,
  type RemoteFile,
} from "./download.ts";
import { openHuggingFace } from "./huggingFace.ts";
import { openModelScope } from "./modelScope.ts";

/** Where repositories can be downloaded from. */
export const HUBS = {
  huggingface: {
    open: openHuggingFace,
    revision: "main",
    place: inHuggingFaceCache,
    token: "HF_TOKEN",
    address: "HF_ENDPOINT",
  },
  modelscope: {
    ...{ open: openModelScope, revision: "master", place: inModelScopeCache },
    ...{ token: "MODELSCOPE_API_TOKEN", address: "MODELSCOPE_DOMAIN" },
  },
} as const satisfies Record<string, HubKind>;

export type HubName = keyof typeof HUBS;

interface HubKind {
  open(asked: Asked): Promise<OpenedHub>;
  /** The branch that is meant if none is named. */
  revision: string;
  /** Where a repository's files go if no folder is named. */
  place(repository: string, commit: string): Place;
  /** Variables with the token of a user, and with the hub's address. */
  token: string;
  address: string;
}

export interface PullOptions extends DownloadOptions {
  /** Hugging Face by default. */
  from?: HubName;
  /** A branch, a tag or a commit; the main branch by default. */
  revision?: string;
  /** Folder for the files; the hub's own cache by default. */
  folder?: string;
  /** Address of the hub; by default from HF_ENDPOINT or MODELSCOPE_DOMAIN, or else the public one. */
  endpoint?: string;
  /** For repositories that ask for one; by default from HF_TOKEN or MODELSCOPE_API_TOKEN. */
  accessToken?: string;
}

/**
 * Downloads a model repository and returns its folder. Files that are there already are not downloaded again,
 * and an interrupted file continues where it stopped. Weights come in one form only: safetensors if there are
 * any. Throws UserError.
 */
export async function pull(repository: string, options: PullOptions = {}): Promise<string> {
  const { from = "huggingface", folder, endpoint, accessToken, signal } = options;
  const kind: HubKind = HUBS[from];
  const { revision = kind.revision } = options;
  if (!isRepositoryName(repository) || !/^\w[\w./-]*$/.test(revision) || revision.includes("..")) {
    throw new UserError(`"${repository}" at "${revision}" is not the name of a repository.`, {
      fix: "Write it as org/name; a revision is a branch, a tag or a commit.",
    });
  }
  try {
    const hub = await kind.open({ repository, revision, endpoint, accessToken, signal });
    for (const { path } of hub.files) refusePath(path);
    const place =
      folder === undefined ? kind.place(repository, hub.commit) : { target: folder, blobs: undefined };
    await download(hub, inOneForm(hub.files), place, options);
    if (place.refs && revision !== hub.commit) await writeRef(place.refs, revision, hub.commit);
    return place.target;
  } catch (cause) {
    signal?.throwIfAborted();
    throw asUserError(cause, { repository, revision, kind });
  }
}

/** Hugging Face's own layout: a snapshot links to blobs. */
function inHuggingFaceCache(repository: string, commit: string): Place {
  const cache = repositoryFolder(cacheFolder(), repository);
  return { target: join(cache, "snapshots", commit), blobs: join(cache, "blobs"), refs: join(cache, "refs") };
}

/** ModelScope's own layout: a folder of plain files. */
function inModelScopeCache(repository: string): Place {
  return { target: modelScopeFolder(repository), blobs: undefined };
}

function inOneForm(files: RemoteFile[]): RemoteFile[] {
  const weights = files.map(({ path }) => path).filter(isWeightsFile);
  const form = weights.some((path) => path.includes(".safetensors")) ? ".safetensors" : ".bin";
  return files.filter(({ path }) => !isWeightsFile(path) || path.includes(form));
}

/** Refuses a path of a listing that could lead out of the folder. */
function refusePath(path: string): void {
  const parts = path.split("/");
  if (parts.every((part) => part !== "" && part !== "." && part !== ".." && !/[\\:]/.test(part))) return;
  throw new UserError(`The repository has a file called ${quoted(path)}, which is refused.`, {
    fix: "Such a file could lie outside of the folder. Use another repository.",
  });
}

/** Writes, once all is there, which commit a branch or tag means. */
async function writeRef(refs: string, revision: string, commit: string): Promise<void> {
  const ref = join(refs, revision);
  await mkdir(dirname(ref), { recursive: true });
  writeFileWhole(ref, commit);
}

function asUserError(
  cause: unknown,
  { repository, revision, kind }: { repository: string; revision: string; kind: HubKind },
): unknown {
  if (cause instanceof UserError) return cause;
  if (cause instanceof HubRefusal) {
    const refused = cause.status === 401 || cause.status === 403;
    const what = refused
      ? "may not be read"
      : cause.status === 404
        ? "does not exist"
        : "is not available from the hub";
    return new UserError(`${repository} at ${revision} ${what}: ${cause.message}.`, {
      fix: refused
        ? `Check the name; if you must ask for access, do so on its page and set ${kind.token}.`
        : "Check the name and the revision.",
      cause,
    });
  }
  if (cause instanceof TypeError && cause.message === "fetch failed") {
    return new UserError(`The hub can't be reached: ${messageOf(cause.cause ?? cause)}.`, {
      fix: `Check the network, a proxy, and ${kind.address}; try another hub (--from modelscope); or copy the model's folder here and name it.`,
      cause,
    });
  }
  return cannotWrite(repository, cause);
}
