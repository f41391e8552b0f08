/**
 * Folders of downloaded repositories, laid out as the hubs' own tools do. Hugging Face: blobs, snapshots that
 * link to them, and refs. ModelScope: plain files.
 */
import { existsSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";

/** Returns Hugging Face's cache: HF_HUB_CACHE, or hub/ in HF_HOME, or in the user's cache folder. */
export function cacheFolder(env: NodeJS.ProcessEnv = process.env): string {
  const caches = env.XDG_CACHE_HOME || join(homedir(), ".cache");
  const home = env.HF_HOME || join(caches, "huggingface");
  return expandHome(env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || join(home, "hub"));
}

/** Returns the folder of a model repository "org/name" in a cache, whether it exists or not. */
export function repositoryFolder(cache: string, repository: string): string {
  return join(cache, `models--${repository.replace("/", "--")}`);
}

/** Returns the folder of a downloaded revision (a branch, a tag or a commit), or undefined. */
export function findSnapshot(cache: string, repository: string, revision = "main"): string | undefined {
  const folder = repositoryFolder(cache, repository);
  const ref = join(folder, "refs", revision);
  const commit = existsSync(ref) ? readFileSync(ref, "utf8").trim() : revision;
  const snapshot = join(folder, "snapshots", commit);
  return existsSync(snapshot) ? snapshot : undefined;
}

/**
 * Returns the folder of a repository in ModelScope's cache: MODELSCOPE_CACHE, or in the user's cache folder.
 */
export function modelScopeFolder(repository: string, env: NodeJS.ProcessEnv = process.env): string {
  const cache = env.MODELSCOPE_CACHE || join(homedir(), ".cache", "modelscope", "hub");
  const [owner, name] = repository.split("/") as [string, string];
  return join(expandHome(cache), "models", owner, name.replaceAll(".", "___"));
}

/** Tells whether a text is the name of a repository, "org/name". */
export function isRepositoryName(text: string): boolean {
  return /^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*$/.test(text) && !text.includes("..");
}

function expandHome(path: string): string {
  return path === "~" || path.startsWith("~/") ? join(homedir(), path.slice(1)) : path;
}
