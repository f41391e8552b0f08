/** Reads the bodies of requests: JSON of limited size, checked by a schema. */
import type { Context } from "hono";
import type { z } from "zod";
import { formatBytes } from "../../errors.ts";
import { HttpError } from "./httpError.ts";

/** Enough for every form of the page. */
const MOST_BYTES = 2 ** 20;

/** Returns the body as the schema has it. Throws HttpError for anything else. */
export async function readBody<S extends z.ZodType>(
  context: Context,
  schema: S,
  { mostBytes = MOST_BYTES } = {},
): Promise<z.output<S>> {
  const parsed = schema.safeParse(await readJson(context, { mostBytes }));
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  const place = issue?.path.join(".");
  throw new HttpError(400, `The body is wrong${place ? ` at "${place}"` : ""}: ${issue?.message}.`);
}

/** Returns the body as JSON. Throws HttpError if it is none, or too large. */
export async function readJson(context: Context, { mostBytes = MOST_BYTES } = {}): Promise<unknown> {
  const type = context.req.header("content-type") ?? "";
  if (!/^application\/json\s*(;|$)/i.test(type))
    // a form of another site can't send this type
    throw new HttpError(415, `The body must be JSON, not "${type}".`, {
      fix: "Content-Type: application/json",
    });
  const bytes = await readBytes(context, mostBytes);
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch (cause) {
    throw new HttpError(400, "The body is not JSON in UTF-8.", { cause });
  }
}

/** Returns at most so many bytes of the body, never holding more. Throws HttpError if there are more. */
export async function readBytes({ req }: Context, mostBytes: number): Promise<Uint8Array> {
  const tooLarge = (): HttpError =>
    new HttpError(413, `The body has more than the ${formatBytes(mostBytes)} allowed.`);
  if (Number(req.header("content-length") ?? 0) > mostBytes) throw tooLarge();
  const parts: Uint8Array[] = [];
  let count = 0;
  try {
    for await (const part of req.raw.body ?? []) {
      count += part.length;
      if (count > mostBytes) throw tooLarge();
      parts.push(part);
    }
  } catch (cause) {
    throw cause instanceof HttpError ? cause : new HttpError(400, "The body broke off.", { cause });
  }
  return Buffer.concat(parts, count);
}
