/** The list of all runs and sweeps, kept up to date while a screen shows it. */
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";
import type { LiveEvents, RunList } from "../../../src/server/ui/api.ts";
import { getJson } from "../api.ts";
import { follow } from "./follow.ts";

/** Stays when the screen is left, so that it is there at once when it is opened again. */
export const runList = signal<RunList | undefined>(undefined);
export const runListProblem = signal<unknown>(undefined);

/** Loads the list when a component appears, and applies changes until it goes. */
export function useRunList(): void {
  useEffect(
    () =>
      follow(
        async (signal) => {
          const list = await getJson<RunList>("runs", {}, signal);
          runList.value = list;
          runListProblem.value = undefined;
          return { list: list.version };
        },
        {
          list: (change) => {
            if (runList.value) runList.value = withChanges(runList.value, change);
          },
        },
        (problem) => {
          runListProblem.value = problem;
        },
      ),
    [],
  );
}

/** Returns the list after a change; new runs come first. */
export function withChanges(list: RunList, { changed, removed, sweeps }: LiveEvents["list"]): RunList {
  const byId = new Map(changed.map((run) => [run.id, run]));
  const gone = new Set(removed);
  const kept = list.runs.flatMap((run) => {
    const newer = byId.get(run.id);
    byId.delete(run.id);
    return gone.has(run.id) ? [] : [newer ?? run];
  });
  const added = [...byId.values()].filter(({ id }) => !gone.has(id));
  return { ...list, runs: [...added, ...kept], ...(sweeps && { sweeps }) };
}
