/** Hugging Face's hub, through its npm package. */
import { downloadFile, HubApiError, listFiles, modelInfo } from "@huggingface/hub";
import { type Asked, HubRefusal, type OpenedHub, RANGES_IGNORED, type RemoteFile } from "./download.ts";

/** Lists a revision's files. Throws HubRefusal. */
export async function openHuggingFace({
  repository,
  revision,
  endpoint = process.env.HF_ENDPOINT,
  accessToken = process.env.HF_TOKEN,
  signal,
}: Asked): Promise<OpenedHub> {
  const connection = {
    ...(endpoint ? { hubUrl: endpoint.replace(/\/+$/, "") } : {}),
    ...(accessToken ? { accessToken } : {}),
    fetch: fetchOf(signal),
  };
  const { sha: commit } = await answered(
    modelInfo({ ...connection, name: repository, revision, additionalFields: ["sha"] }),
  );
  const files: RemoteFile[] = [];
  const listing = listFiles({ ...connection, repo: repository, revision: commit, recursive: true });
  for (let next = await answered(listing.next()); !next.done; next = await answered(listing.next())) {
    const { type, path, size, lfs, oid } = next.value;
    if (type !== "file") continue;
    const hash = lfs?.oid ?? oid ?? "";
    // hashes become names of files
    if (!/^([0-9a-f]{40}|[0-9a-f]{64})$/.test(hash)) throw new Error(`"${path}" comes without a hash`);
    files.push({ path, bytes: size, hash });
  }
  const read = async (file: RemoteFile, startBytes: number): Promise<AsyncIterable<Uint8Array>> => {
    const asked = { ...connection, repo: repository, path: file.path, revision: commit, xet: false };
    const blob = await answered(downloadFile(asked));
    if (blob?.size !== file.bytes) throw new Error(`the hub has ${blob?.size ?? "no"} bytes of it`);
    return blob.slice(startBytes).stream();
  };
  return { commit, files, read };
}

/**
 * Makes a fetch that the signal stops, and that throws RANGES_IGNORED if a server answers with a whole file.
 */
function fetchOf(signal: AbortSignal | undefined): typeof fetch {
  return async (input, init) => {
    const response = await fetch(input, { ...init, ...(signal ? { signal } : {}) });
    const range = new Headers(init?.headers).get("range");
    const resumes = range && !range.startsWith("bytes=0-");
    if (resumes && response.status === 200) throw new Error(RANGES_IGNORED);
    return response;
  };
}

/** Turns an error of the hub into HubRefusal. */
async function answered<T>(asked: Promise<T>): Promise<T> {
  try {
    return await asked;
  } catch (cause) {
    throw cause instanceof HubApiError ? new HubRefusal(cause.statusCode, cause.message, cause) : cause;
  }
}
