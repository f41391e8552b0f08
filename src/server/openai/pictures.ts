/** Pictures of a request: data URLs, files below one folder, and remote URLs if the server allows them. */
import { fileURLToPath } from "node:url";
import { messageOf } from "../../errors.ts";
import { isPlainFile, realPathBelow } from "../http/paths.ts";
import { ApiError } from "./apiError.ts";

export interface PictureRules {
  /** Real path of the folder that files may come from; undefined: no files. */
  folder: string | undefined;
  allowRemote: boolean;
}

/** Bytes of one remote picture. */
const MOST_REMOTE_BYTES = 64 * 2 ** 20;
const REMOTE_TIMEOUT_MS = 30_000;

/** Returns data URIs and absolute paths for a request's URLs. Throws ApiError for any it may not read. */
export function picturesOf(
  urls: readonly string[],
  rules: PictureRules,
  signal: AbortSignal,
): Promise<string[]> {
  return Promise.all(urls.map((url) => pictureOf(url, rules, signal)));
}

function pictureOf(url: string, rules: PictureRules, signal: AbortSignal): Promise<string> | string {
  if (/^data:/i.test(url)) return url;
  if (/^https?:/i.test(url)) return remotePicture(url, rules, signal);
  return filePicture(url, rules);
}

/** Returns the real path of a plain file, if that lies below the folder, whichever links lead there. */
async function filePicture(url: string, { folder }: PictureRules): Promise<string> {
  if (folder === undefined)
    throw refused(
      "This server reads no files. Send pictures as data URLs, or start it with --picture-folder.",
    );
  const outside = refused(`${shown(url)} is not a file below the server's picture folder.`);
  const path = pathOf(url);
  const real = path === undefined ? undefined : realPathBelow(folder, path);
  if (real === undefined || !(await isPlainFile(real))) throw outside;
  return real;
}

function pathOf(url: string): string | undefined {
  if (!/^file:/i.test(url)) return url;
  try {
    return fileURLToPath(url);
  } catch {
    return undefined; // a file: URL with a host
  }
}

/** Downloads a picture into a data URI. */
async function remotePicture(
  url: string,
  { allowRemote }: PictureRules,
  signal: AbortSignal,
): Promise<string> {
  if (!allowRemote)
    throw refused(
      "This server downloads no pictures. Send them as data URLs, or start it with --allow-remote-images.",
    );
  try {
    const answer = await fetch(url, {
      signal: AbortSignal.any([signal, AbortSignal.timeout(REMOTE_TIMEOUT_MS)]),
    });
    if (!answer.ok) throw new Error(`the server answered ${answer.status}`);
    const bytes = await bodyOf(answer);
    return `data:;base64,${bytes.toString("base64")}`;
  } catch (cause) {
    throw refused(`${shown(url)} could not be downloaded: ${messageOf(cause)}`);
  }
}

async function bodyOf(answer: Response): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of answer.body ?? []) {
    bytes += piece.length;
    if (bytes > MOST_REMOTE_BYTES) throw new Error("it is larger than 64 MiB");
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}

function refused(message: string): ApiError {
  return new ApiError(400, message, { param: "messages", code: "invalid_image_url" });
}

/** Cuts a long URL for a message. */
function shown(url: string): string {
  return url.length > 100 ? `${url.slice(0, 100)}...` : url;
}
