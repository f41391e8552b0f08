/**
 * Follows the server's live events, and connects again when the connection ends: after a restart of the server
 * the page continues where it was.
 */
import { signal } from "@preact/signals";
import type { LiveEvents } from "../../../src/server/ui/api.ts";
import { ApiProblem, apiUrl, ask, type Query } from "../api.ts";
import { readEvents } from "./sse.ts";

/** Set while the server cannot be reached; the shell shows it. */
export const lostConnection = signal<ApiProblem | undefined>(undefined);

const WAITS_MS = [500, 1_000, 2_000, 4_000];

export type Takers = { [Name in keyof LiveEvents]?: (event: LiveEvents[Name]) => void };

/**
 * Follows until the returned function is called. Before each connection `place` is asked for the query that names
 * what the page has, so after a loss it gets what has come since. `failed` hears what goes wrong.
 */
export function follow(
  place: (signal: AbortSignal) => Query | Promise<Query>,
  takers: Takers,
  failed: (problem: unknown) => void = () => {},
): () => void {
  const abort = new AbortController();
  void keepFollowing(place, takers, failed, abort.signal);
  return () => abort.abort();
}

async function keepFollowing(
  place: (signal: AbortSignal) => Query | Promise<Query>,
  takers: Takers,
  failed: (problem: unknown) => void,
  ended: AbortSignal,
): Promise<void> {
  let failures = 0;
  while (!ended.aborted) {
    try {
      const response = await ask(apiUrl("live", await place(ended)), { signal: ended });
      failures = 0;
      lostConnection.value = undefined;
      for await (const { event, data } of readEvents(response.body!)) {
        if (ended.aborted) return;
        const take = takers[event as keyof LiveEvents] as ((event: unknown) => void) | undefined;
        take?.(JSON.parse(data));
      }
    } catch (problem) {
      if (ended.aborted) return;
      failed(problem);
      if (isLoss(problem)) lostConnection.value = problem;
    }
    await pause(WAITS_MS[Math.min(failures++, WAITS_MS.length - 1)]!, ended);
  }
}

/** Whether the whole server is out of reach, and not only what was asked for missing. */
function isLoss(problem: unknown): problem is ApiProblem {
  return problem instanceof ApiProblem && [0, 401, 403].includes(problem.status);
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
