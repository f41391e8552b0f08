/**
 * Asks the server. The browser sends the cookie that the server has set for its token; a problem is an
 * ApiProblem in words that a person can act on.
 */

import type { ApiError } from "../../src/server/ui/api.ts";

/** States what is wrong; `fix` has what helps, a line each. */
export class ApiProblem extends Error {
  readonly fix: string[];
  /** HTTP status; 0 if there was no answer. */
  readonly status: number;

  constructor(message: string, { fix = [], status }: { fix?: string[]; status: number }) {
    super(message);
    this.name = "ApiProblem";
    this.fix = fix;
    this.status = status;
  }
}

export type Query = Record<string, string | number | boolean | undefined>;

/** Returns the JSON at `api/<path>`. */
export async function getJson<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  const response = await ask(apiUrl(path, query), { ...(signal && { signal }) });
  return (await response.json()) as T;
}

/** Sends JSON to `api/<path>` and returns the JSON of the answer; undefined if the answer is empty. */
export async function postJson<T>(path: string, body: unknown = {}, signal?: AbortSignal): Promise<T> {
  const response = await ask(apiUrl(path), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...(signal && { signal }),
  });
  const text = await response.text();
  return (text ? JSON.parse(text) : undefined) as T;
}

/** Sends JSON to `api/<path>` and gives each line of the answer to `take` as it comes. */
export async function postLines<T>(
  path: string,
  body: unknown,
  take: (line: T) => void,
  signal?: AbortSignal,
): Promise<void> {
  const response = await ask(apiUrl(path), {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    ...(signal && { signal }),
  });
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (let part = await reader.read(); !part.done; part = await reader.read()) {
    const lines = (rest + part.value).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) if (!signal?.aborted) take(JSON.parse(line) as T);
  }
}

/** Returns the address of `api/<path>`, also for pictures and event streams. */
export function apiUrl(path: string, query: Query = {}): string {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query))
    if (value !== undefined && value !== "") search.set(key, String(value));
  const text = search.toString();
  return `api/${path}${text && `?${text}`}`;
}

/** Returns an answer that is well; throws ApiProblem otherwise. */
export async function ask(url: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...init });
  } catch (cause) {
    if (cause instanceof DOMException && cause.name === "AbortError") throw cause;
    throw new ApiProblem("The server does not answer.", {
      fix: ["Is lorafit ui still running in its terminal? This page continues when the server is back."],
      status: 0,
    });
  }
  if (response.ok) return response;
  throw await problemOf(response);
}

async function problemOf(response: Response): Promise<ApiProblem> {
  const { status } = response;
  if (status === 401 || status === 403)
    return new ApiProblem("This browser has no valid token for the server.", {
      fix: ["Open the address that lorafit ui printed when it started: its end is the token."],
      status,
    });
  const { error, fix } = (await response.json().catch(() => ({}))) as Partial<ApiError>;
  return new ApiProblem(error ?? `The server answered with status ${status}.`, {
    fix: fix?.split("\n") ?? [],
    status,
  });
}
