/** The table of runs. Arrow keys move through it, Enter opens a run, Space chooses it. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { RunSummary } from "../../../../src/server/ui/api.ts";
import type { Sort, SortKey } from "../../lib/runFilter.ts";
import { useKeys } from "./keys.ts";
import { RunRow } from "./runRow.tsx";
import { useWindow } from "./useWindow.ts";

interface RunsTableProps {
  runs: readonly RunSummary[];
  /** Names of the settings to show. */
  settings: readonly string[];
  sort: Sort;
  onSort(key: SortKey): void;
  chosen: ReadonlySet<string>;
  onChoose(ids: readonly string[], isChosen: boolean): void;
}

const HEADS: { title: string; key?: SortKey; isNumber?: boolean; class: string }[] = [
  { title: "Run", key: "name", class: "col-name" },
  { title: "State", key: "state", class: "col-state" },
  { title: "Step", key: "step", isNumber: true, class: "col-step" },
  { title: "Settings that differ", class: "col-settings" },
  { title: "Loss", key: "loss", class: "col-loss" },
  { title: "Best eval", key: "best", isNumber: true, class: "col-best" },
  { title: "Planned", key: "planned", isNumber: true, class: "col-bytes" },
  { title: "Peak", key: "peak", isNumber: true, class: "col-bytes" },
  { title: "Tokens/s", key: "speed", isNumber: true, class: "col-speed" },
  { title: "Changed", key: "age", isNumber: true, class: "col-age" },
];

export function RunsTable({ runs, settings, sort, onSort, chosen, onChoose }: RunsTableProps) {
  const body = useRef<HTMLTableSectionElement>(null);
  const rowPixels = useRowPixels();
  const { from, to } = useWindow(body, runs.length, rowPixels);
  const [active, setActive] = useState(0);
  const at = Math.min(active, runs.length - 1);
  useKeys({
    runs,
    at,
    chosen,
    onChoose,
    move: (index) => setActive(showRow(body.current, index, rowPixels)),
  });
  const allChosen = runs.every(({ id }) => chosen.has(id));
  return (
    <table class="runs-table" aria-rowcount={runs.length + 1}>
      <caption class="visually-hidden">Runs. Arrow keys move, Enter opens, Space chooses, / finds.</caption>
      <thead>
        <tr>
          <th scope="col" class="col-choose">
            <input
              type="checkbox"
              aria-label="Choose all shown runs"
              checked={allChosen}
              onChange={() =>
                onChoose(
                  runs.map(({ id }) => id),
                  !allChosen,
                )
              }
            />
          </th>
          {HEADS.map((head) => (
            <Head key={head.title} head={head} sort={sort} onSort={onSort} />
          ))}
        </tr>
      </thead>
      <tbody ref={body}>
        <Spacer pixels={from * rowPixels} />
        {runs.slice(from, to).map((run, index) => (
          <RunRow
            key={run.id}
            run={run}
            index={from + index}
            settings={settings}
            isActive={from + index === at}
            isChosen={chosen.has(run.id)}
            onActive={() => setActive(from + index)}
            onChoose={(isChosen) => onChoose([run.id], isChosen)}
          />
        ))}
        <Spacer pixels={(runs.length - to) * rowPixels} />
      </tbody>
    </table>
  );
}

type HeadProps = { head: (typeof HEADS)[number] } & Pick<RunsTableProps, "sort" | "onSort">;

function Head({ head, sort, onSort }: HeadProps) {
  const { title, key, isNumber, class: name } = head;
  const order = key === sort.key ? (sort.isDescending ? "descending" : "ascending") : undefined;
  return (
    <th scope="col" class={`${name} ${isNumber ? "number" : ""}`} aria-sort={order}>
      {key ? (
        <button type="button" class="head-button" onClick={() => onSort(key)}>
          {title}
          <span aria-hidden="true">{order === "ascending" ? " ↑" : order === "descending" ? " ↓" : ""}</span>
        </button>
      ) : (
        title
      )}
    </th>
  );
}

/** Holds the place of rows that are not drawn. */
function Spacer({ pixels }: { pixels: number }) {
  return pixels > 0 ? (
    <tr class="spacer">
      <td colSpan={HEADS.length + 1} style={{ height: `${pixels}px` }} />
    </tr>
  ) : null;
}

/** Returns the height of a row, which is a card on a narrow screen; runs.css has the same numbers. */
function useRowPixels(): number {
  const [isNarrow, setNarrow] = useState(() => NARROW.matches);
  useEffect(() => {
    const change = (): void => setNarrow(NARROW.matches);
    NARROW.addEventListener("change", change);
    return () => NARROW.removeEventListener("change", change);
  }, []);
  return isNarrow ? 112 : 38;
}

const NARROW = window.matchMedia("(max-width: 60rem)");

/** Scrolls a row into sight, so that it is drawn, and returns its index. */
function showRow(body: HTMLElement | null, index: number, rowPixels: number): number {
  if (!body) return index;
  const bar = 100; // the page's bar and the table's head
  const top = body.getBoundingClientRect().top + index * rowPixels;
  if (top < bar) window.scrollBy(0, top - bar);
  else if (top + rowPixels > window.innerHeight) window.scrollBy(0, top + rowPixels - window.innerHeight + 8);
  requestAnimationFrame(() => body.querySelector<HTMLElement>(`tr[data-index="${index}"] a`)?.focus());
  return index;
}
