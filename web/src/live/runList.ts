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
  useEffect(() => {
    let waiting: LiveEvents["list"][] | undefined;
    let isWanted = true;
    const load = async (): Promise<void> => {
      waiting = []; // changes while the list is on its way are applied to it
      try {
        const loaded = await getJson<RunList>("runs");
        if (!isWanted) return;
        runList.value = waiting.reduce(withChanges, loaded);
        runListProblem.value = undefined;
      } catch (problem) {
        runListProblem.value = problem;
      }
      waiting = undefined;
    };
    const take = (change: LiveEvents["list"]): void => {
      if (waiting) waiting.push(change);
      else if (runList.value) runList.value = withChanges(runList.value, change);
    };
    void load();
    let isFirst = true;
    const stop = follow(
      () => ({ list: 1 }),
      { list: take },
      () => {
        if (!isFirst || !runList.value) void load(); // what changed while there was no connection
        isFirst = false;
      },
    );
    return () => {
      isWanted = false;
      stop();
    };
  }, []);
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
