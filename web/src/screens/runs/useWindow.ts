/** Draws only the rows of a long table that are in sight. */
import { useEffect, useState } from "preact/hooks";

const BEYOND = 8;

/**
 * Returns the first row to draw and the one after the last. All rows have one height; the body of the table
 * lies in the page and scrolls with it.
 */
export function useWindow(
  body: { current: HTMLElement | null },
  count: number,
  rowPixels: number,
): { from: number; to: number } {
  const [range, setRange] = useState({ from: 0, to: 60 });
  useEffect(() => {
    const measure = (): void => {
      const top = body.current?.getBoundingClientRect().top ?? 0;
      const first = Math.floor(Math.max(0, -top) / rowPixels);
      const from = Math.max(0, first - BEYOND);
      const to = first + Math.ceil(window.innerHeight / rowPixels) + BEYOND;
      setRange((before) => (before.from === from && before.to === to ? before : { from, to }));
    };
    measure();
    window.addEventListener("scroll", measure, { passive: true });
    window.addEventListener("resize", measure);
    return () => {
      window.removeEventListener("scroll", measure);
      window.removeEventListener("resize", measure);
    };
  }, [count, rowPixels]);
  const from = Math.min(range.from, Math.max(0, count - 1));
  return { from, to: Math.min(count, range.to) };
}
