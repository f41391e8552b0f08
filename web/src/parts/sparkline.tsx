/** A curve the size of a word. */
import { formatNumber } from "../lib/format.ts";

const [WIDTH, HEIGHT] = [84, 22];

export function Sparkline({ values, label }: { values: readonly (number | null)[]; label: string }) {
  const known = values.filter((value): value is number => value !== null && Number.isFinite(value));
  if (known.length < 2) return null;
  const words = `${label} from ${formatNumber(known[0])} to ${formatNumber(known.at(-1))}`;
  return (
    <svg
      class="sparkline"
      width={WIDTH}
      height={HEIGHT}
      viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
      role="img"
      aria-label={words}
    >
      <title>{words}</title>
      <path d={sparklinePath(values, WIDTH, HEIGHT)} />
    </svg>
  );
}

/** Returns an SVG path through the values, from edge to edge; a missing value leaves a gap. */
export function sparklinePath(values: readonly (number | null)[], width: number, height: number): string {
  const known = values.filter((value): value is number => value !== null && Number.isFinite(value));
  const [low, high] = [Math.min(...known), Math.max(...known)];
  const x = (index: number): number => 1 + (index / Math.max(1, values.length - 1)) * (width - 2);
  const y = (value: number): number =>
    high === low ? height / 2 : 1.5 + ((high - value) / (high - low)) * (height - 3);
  let pen = "M";
  return values
    .map((value, index) => {
      if (value === null || !Number.isFinite(value)) {
        pen = "M";
        return "";
      }
      const point = `${pen}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
      pen = "L";
      return point;
    })
    .join("");
}
