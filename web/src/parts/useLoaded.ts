/** Loads something when a component appears and whenever what it depends on changes. */
import { useCallback, useEffect, useState } from "preact/hooks";

export type Loaded<T> =
  | { state: "loading"; value?: T }
  | { state: "ready"; value: T }
  | { state: "failed"; problem: unknown; value?: T };

/**
 * Returns what `load` gives. A newer call cancels an older one by its signal; until it is done, the value before
 * stays. `reload` loads again.
 */
export function useLoaded<T>(
  load: (signal: AbortSignal) => Promise<T>,
  depends: readonly unknown[],
): Loaded<T> & { reload: () => void } {
  const [loaded, setLoaded] = useState<Loaded<T>>({ state: "loading" });
  const [turn, setTurn] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    setLoaded(({ value }) => ({ state: "loading", ...(value !== undefined && { value }) }));
    load(abort.signal).then(
      (value) => abort.signal.aborted || setLoaded({ state: "ready", value }),
      (problem: unknown) =>
        abort.signal.aborted ||
        setLoaded(({ value }) => ({ state: "failed", problem, ...(value !== undefined && { value }) })),
    );
    return () => abort.abort();
  }, [turn, ...depends]);
  const reload = useCallback(() => setTurn((before) => before + 1), []);
  return { ...loaded, reload };
}
