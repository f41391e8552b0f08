/**
 * Follows the server's live events, and connects again when the connection ends: after a restart of the server
 * the page goes on where it was.
 */
import { signal } from "@preact/signals";
import type { LiveEvents } from "../../../src/server/ui/api.ts";
import { type ApiProblem, apiUrl, ask, type Query } from "../api.ts";
import { readEvents } from "./sse.ts";

/** Set while the server cannot be reached; the shell shows it. */
export const lostConnection = signal<ApiProblem | undefined>(undefined);

const WAITS_MS = [500, 1_000, 2_000, 4_000];

export type Takers = { [Name in keyof LiveEvents]?: (event: LiveEvents[Name]) => void };

/**
 * Follows until the returned function is called. `query` is asked at every connection, so it can name the place
 * that was reached; `opened` is called after it.
 */
export function follow(query: () => Query, takers: Takers, opened: () => void = () => {}): () => void {
  const abort = new AbortController();
  void keepFollowing(query, takers, opened, abort.signal);
  return () => abort.abort();
}

async function keepFollowing(
  query: () => Query,
  takers: Takers,
  opened: () => void,
  ended: AbortSignal,
): Promise<void> {
  let failures = 0;
  while (!ended.aborted) {
    try {
      const response = await ask(apiUrl("live", query()), { signal: ended });
      failures = 0;
      lostConnection.value = undefined;
      opened();
      for await (const { event, data } of readEvents(response.body!)) {
        if (ended.aborted) return;
        const take = takers[event as keyof LiveEvents] as ((event: unknown) => void) | undefined;
        take?.(JSON.parse(data));
      }
    } catch (problem) {
      if (ended.aborted) return;
      if (isProblem(problem)) lostConnection.value = problem;
    }
    await pause(WAITS_MS[Math.min(failures++, WAITS_MS.length - 1)]!, ended);
  }
}

function isProblem(problem: unknown): problem is ApiProblem {
  return problem instanceof Error && problem.name === "ApiProblem";
}

function pause(ms: number, ended: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = window.setTimeout(resolve, ms);
    ended.addEventListener("abort", () => {
      window.clearTimeout(timer);
      resolve();
    });
  });
}
