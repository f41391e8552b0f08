/** Reads the JSON body of a request, up to a size. */
import { ApiError } from "./apiError.ts";

/** Room for several pictures in base64. */
const MOST_BODY_BYTES = 64 * 2 ** 20;

/** Reads the body. Throws ApiError if it is too large or not JSON. */
export async function readJsonBody(request: Request): Promise<unknown> {
  const type = request.headers.get("content-type") ?? "";
  if (!/^application\/json\s*(;|$)/i.test(type))
    throw new ApiError(415, "The request's Content-Type is not application/json.");
  const bytes = await readBytes(request);
  try {
    return JSON.parse(bytes.toString("utf8"));
  } catch {
    throw new ApiError(400, "The request's body is not valid JSON.");
  }
}

async function readBytes({ headers, body }: Request): Promise<Buffer> {
  const tooLarge = new ApiError(413, `The request's body is larger than ${MOST_BODY_BYTES / 2 ** 20} MiB.`);
  if (Number(headers.get("content-length") ?? 0) > MOST_BODY_BYTES) throw tooLarge;
  const pieces: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of body ?? []) {
    bytes += piece.length;
    if (bytes > MOST_BODY_BYTES) throw tooLarge;
    pieces.push(piece);
  }
  return Buffer.concat(pieces);
}
