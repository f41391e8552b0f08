/** Numbers as people read them: with a unit, and no more digits than say something. */

const KIB = 1024;
const BYTE_UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

/** Returns "19.6 GiB", "812 MiB", "17 B". */
export function formatBytes(bytes: number | undefined | null): string {
  if (bytes === undefined || bytes === null || !Number.isFinite(bytes)) return "–";
  let power = 0;
  while (power < BYTE_UNITS.length - 1 && Math.abs(bytes) >= KIB ** (power + 1)) power++;
  const value = bytes / KIB ** power;
  const digits = power >= 1 && Math.abs(value) < 100 ? 1 : 0;
  return `${value.toFixed(digits)} ${BYTE_UNITS[power]}`;
}

/** Returns a whole number with commas: "13,345". */
export function formatCount(count: number | undefined | null): string {
  return count === undefined || count === null || !Number.isFinite(count)
    ? "–"
    : Math.round(count).toLocaleString("en-US");
}

/** Returns a number with three to four significant digits: "0.4123", "3.1e-5", "1,912". */
export function formatNumber(value: number | undefined | null): string {
  if (value === undefined || value === null || Number.isNaN(value)) return "–";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "-∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return Math.round(value).toLocaleString("en-US");
  if (size < 1e-3) return shortExponent(value);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 1 ? 3 : 4);
}

/** Returns "3.1e-5" without zeros that say nothing. */
export function shortExponent(value: number): string {
  return value
    .toExponential(2)
    .replace(/\.?0+e/, "e")
    .replace("e+", "e");
}

/** Returns a share from 0 to 1 as "4.2 %". */
export function formatRatio(ratio: number | undefined | null): string {
  if (ratio === undefined || ratio === null || !Number.isFinite(ratio)) return "–";
  const percent = ratio * 100;
  return `${percent.toFixed(percent >= 10 || percent === 0 ? 0 : 1)} %`;
}

/** Returns "412 ms", "8.6 s", "5 min 18 s", "3 h 20 min", "2 d 4 h". */
export function formatDuration(ms: number | undefined | null): string {
  if (ms === undefined || ms === null || !Number.isFinite(ms)) return "–";
  if (ms < 1_000) return `${Math.round(ms)} ms`;
  if (ms < 59_950) return `${(ms / 1_000).toFixed(1)} s`;
  const seconds = Math.round(ms / 1_000);
  if (seconds < 3_600) return pair(Math.floor(seconds / 60), "min", seconds % 60, "s");
  const minutes = Math.round(seconds / 60);
  if (minutes < 1_440) return pair(Math.floor(minutes / 60), "h", minutes % 60, "min");
  const hours = Math.round(minutes / 60);
  return pair(Math.floor(hours / 24), "d", hours % 24, "h");
}

/** Returns how long ago something was: "now", "4 min ago", "3 d ago". */
export function formatAge(ageMs: number | undefined | null): string {
  if (ageMs === undefined || ageMs === null || !Number.isFinite(ageMs)) return "–";
  if (ageMs < 10_000) return "now";
  const units: [string, number][] = [
    ["d", 86_400_000],
    ["h", 3_600_000],
    ["min", 60_000],
    ["s", 1_000],
  ];
  const [unit, size] = units.find(([, unitMs]) => ageMs >= unitMs) ?? ["s", 1_000];
  return `${Math.floor(ageMs / size)} ${unit} ago`;
}

function pair(first: number, firstUnit: string, second: number, secondUnit: string): string {
  return second === 0 ? `${first} ${firstUnit}` : `${first} ${firstUnit} ${second} ${secondUnit}`;
}
