/** Keys of the table of runs. */
import { useEffect, useRef } from "preact/hooks";
import type { RunSummary } from "../../../../src/server/ui/api.ts";
import { hrefOf, navigate } from "../../router.ts";

interface Keys {
  runs: readonly RunSummary[];
  /** Index of the run that the keys are at. */
  at: number;
  chosen: ReadonlySet<string>;
  onChoose(ids: readonly string[], isChosen: boolean): void;
  move(index: number): void;
}

/** Keys work wherever the focus is, except in fields and on buttons. */
export function useKeys(keys: Keys): void {
  const latest = useRef(keys);
  latest.current = keys;
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      const { target, key } = event;
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (isTyping(target) && key === "Escape") (target as HTMLElement).blur();
      const isOnControl = target instanceof HTMLElement && target.closest("button, summary") !== null;
      if (isTyping(target) || isOnControl) return;
      const { runs, at, chosen, onChoose, move } = latest.current;
      const run = runs[at];
      const moves: Record<string, number> = {
        ArrowDown: at + 1,
        ArrowUp: at - 1,
        PageDown: at + 15,
        PageUp: at - 15,
        Home: 0,
        End: runs.length - 1,
      };
      const to = moves[key];
      const isRow =
        !(target instanceof HTMLElement) || target === document.body || target.closest("table, main");
      if (to !== undefined) move(Math.max(0, Math.min(runs.length - 1, to)));
      else if (key === " " && run && isRow) onChoose([run.id], !chosen.has(run.id));
      else if (key === "Enter" && run && target === document.body) navigate(hrefOf("run", [run.id]));
      else return;
      event.preventDefault();
    };
    document.addEventListener("keydown", onKey);
    return () => document.removeEventListener("keydown", onKey);
  }, []);
}

/** Whether keys that are typed go into a field. */
export function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement && target.closest("input:not([type=checkbox]), textarea, select") !== null
  );
}
