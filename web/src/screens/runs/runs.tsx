/** All runs and sweeps below the folder: find them, sort them, choose some to compare. */
import { signal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import type { RunSummary } from "../../../../src/server/ui/api.ts";
import { formatCount } from "../../lib/format.ts";
import { matchingRuns, SORT_VALUES, type Sort, type SortKey, sortedRuns } from "../../lib/runFilter.ts";
import { differingSettings } from "../../lib/settings.ts";
import { RUN_STATES } from "../../lib/words.ts";
import { runList, runListProblem, useRunList } from "../../live/runList.ts";
import { Empty, Loading, Problem } from "../../parts/states.tsx";
import { hrefOf, route, setQuery } from "../../router.ts";
import { isTyping } from "./keys.ts";
import "./runs.css";
import { RunsTable } from "./runsTable.tsx";
import { Sweeps } from "./sweeps.tsx";

/** Ids of the runs to compare; they stay chosen while other screens are open. */
export const chosen = signal<ReadonlySet<string>>(new Set());

export function Runs() {
  useRunList();
  const list = runList.value;
  const problem = runListProblem.value;
  if (!list) return problem ? <Problem of={problem} /> : <Loading what="runs" />;
  return (
    <>
      <div class="screen-head">
        <h1>Runs</h1>
        <span class="muted mono runs-folder">{list.folder}</span>
      </div>
      {list.runs.length === 0 && list.sweeps.length === 0 ? (
        <Empty>
          <p>There are no runs below this folder yet. Train here, and the run appears at once:</p>
          <p class="mono">lorafit train --model MODEL --data DATA --output run</p>
        </Empty>
      ) : (
        <>
          {list.sweeps.length > 0 && <Sweeps sweeps={list.sweeps} />}
          <RunsOf runs={list.runs} />
        </>
      )}
    </>
  );
}

function RunsOf({ runs }: { runs: readonly RunSummary[] }) {
  const { query } = route.value;
  const words = query.get("find") ?? "";
  const state = query.get("state") ?? "";
  const sort = sortOf(query);
  const shown = useMemo(() => {
    const found = matchingRuns(runs, words).filter((run) => !state || run.state === state);
    return sortedRuns(found, sort);
  }, [runs, words, state, sort.key, sort.isDescending]);
  const settings = useMemo(() => differingSettings(shown.map(({ options }) => options)), [shown]);
  return (
    <>
      <Finder runs={runs} shown={shown.length} words={words} state={state} />
      {shown.length === 0 ? (
        <Empty>No run matches.</Empty>
      ) : (
        <RunsTable
          runs={shown}
          settings={settings}
          sort={sort}
          onSort={(key) => setQuery(sortQuery(sort, key))}
          chosen={chosen.value}
          onChoose={choose}
        />
      )}
    </>
  );
}

interface FinderProps {
  runs: readonly RunSummary[];
  shown: number;
  words: string;
  state: string;
}

function Finder({ runs, shown, words, state }: FinderProps) {
  const input = useRef<HTMLInputElement>(null);
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (event.key !== "/" || isTyping(event.target)) return;
      event.preventDefault();
      input.current?.focus();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
  const countOf = (wanted: string): number => runs.filter((run) => run.state === wanted).length;
  return (
    <div class="row runs-finder">
      <input
        ref={input}
        type="search"
        class="runs-find"
        placeholder="Find: name, state, lora_r=8   ( / )"
        aria-label="Find runs by name, state or setting"
        value={words}
        onInput={(event) => setQuery({ find: event.currentTarget.value })}
      />
      <select
        aria-label="State"
        value={state}
        onChange={(event) => setQuery({ state: event.currentTarget.value })}
      >
        <option value="">all states</option>
        {Object.entries(RUN_STATES).map(([value, { name, meaning }]) => (
          <option key={value} value={value} title={meaning}>
            {name} ({countOf(value)})
          </option>
        ))}
      </select>
      <span class="muted" role="status">
        {shown === runs.length ? "" : `${formatCount(shown)} of `}
        {formatCount(runs.length)} runs
      </span>
      <Comparing runs={runs} />
    </div>
  );
}

function Comparing({ runs }: { runs: readonly RunSummary[] }) {
  const ids = runs.filter(({ id }) => chosen.value.has(id)).map(({ id }) => id);
  return (
    <span class="row runs-comparing">
      {ids.length > 0 && (
        <button type="button" onClick={() => (chosen.value = new Set())}>
          Clear {ids.length}
        </button>
      )}
      {ids.length > 1 ? (
        <a class="button primary" href={hrefOf("compare", [], { runs: ids.join(",") })}>
          Compare {ids.length} runs
        </a>
      ) : (
        <span class="muted">Choose runs to compare them</span>
      )}
    </span>
  );
}

function choose(ids: readonly string[], isChosen: boolean): void {
  const after = new Set(chosen.value);
  for (const id of ids) isChosen ? after.add(id) : after.delete(id);
  chosen.value = after;
}

function sortOf(query: URLSearchParams): Sort {
  const text = query.get("sort") ?? "age";
  const key = text.replace(/^-/, "");
  return {
    key: Object.hasOwn(SORT_VALUES, key) ? (key as SortKey) : "age",
    isDescending: text.startsWith("-"),
  };
}

function sortQuery(before: Sort, key: SortKey): Record<string, string> {
  const isDescending = before.key === key && !before.isDescending;
  return { sort: `${isDescending ? "-" : ""}${key}` };
}
