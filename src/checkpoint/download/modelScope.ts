/**
 * ModelScope's hub. Source of its addresses and fields: the Python package modelscope, hub/api.py and
 * hub/file_download.py.
 */
import { z } from "zod";
import { type Asked, HubRefusal, type OpenedHub, RANGES_IGNORED, type RemoteFile } from "./download.ts";

const DOMAIN = "www.modelscope.cn";

const Listing = z.object({
  Data: z.object({
    Files: z.array(
      z.object({
        Path: z.string(),
        Type: z.string(),
        Size: z.int().nonnegative(),
        Sha256: z
          .string()
          .regex(/^[0-9a-f]{64}$/)
          .or(z.literal(""))
          .nullish(),
      }),
    ),
  }),
});

/** Lists a revision's files. Throws HubRefusal. */
export async function openModelScope({
  repository,
  revision,
  endpoint = endpointOf(process.env.MODELSCOPE_DOMAIN),
  accessToken = process.env.MODELSCOPE_API_TOKEN,
  signal,
}: Asked): Promise<OpenedHub> {
  const models = `${endpoint.replace(/\/+$/, "")}/api/v1/models/${repository}`;
  const ask = async (
    path: string,
    query: Record<string, string>,
    headers: Record<string, string> = {},
  ): Promise<Response> => {
    const cookie = accessToken ? { cookie: `m_session_id=${accessToken}` } : {};
    const response = await fetch(
      `${models}/${path}?${new URLSearchParams({ Revision: revision, ...query })}`,
      {
        headers: { ...cookie, ...headers },
        ...(signal && { signal }),
      },
    );
    if (response.ok) return response;
    throw new HubRefusal(response.status, await messageIn(response));
  };
  const listing = Listing.safeParse(await (await ask("repo/files", { Recursive: "True" })).json());
  if (!listing.success) throw new HubRefusal(502, "its list of files is not what ModelScope sends");
  const blobs = listing.data.Data.Files.filter(({ Type }) => Type !== "tree");
  const files = blobs.map(({ Path, Size, Sha256 }) => ({
    path: Path,
    bytes: Size,
    hash: Sha256 || undefined,
  }));
  const read = async (file: RemoteFile, startBytes: number): Promise<AsyncIterable<Uint8Array>> => {
    if (file.bytes === 0) return emptyFile();
    const range = `bytes=${startBytes}-${file.bytes - 1}`; // the end is the last byte
    const response = await ask("repo", { FilePath: file.path }, { range });
    if (startBytes > 0 && response.status === 200) throw new Error(RANGES_IGNORED);
    if (!response.body) throw new Error("the hub sent nothing");
    return response.body;
  };
  return { commit: revision, files, read };
}

/** From the variable that ModelScope's own tools read; it has no scheme as a rule. */
function endpointOf(domain: string | undefined): string {
  const named = domain || DOMAIN;
  return /^https?:\/\//.test(named) ? named : `https://${named}`;
}

/** The reason that ModelScope gives, or else the status. */
async function messageIn(response: Response): Promise<string> {
  const body = z
    .object({ Message: z.string().min(1) })
    .safeParse(await response.json().catch(() => undefined));
  return body.success ? body.data.Message.slice(0, 200) : `status ${response.status}`;
}

async function* emptyFile(): AsyncGenerator<Uint8Array> {}
