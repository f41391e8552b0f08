/** Kinds of quantities on an axis: how a tick and a value read, and which steps between ticks are round. */
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatNumber,
  formatRatio,
  shortExponent,
} from "../../lib/format.ts";

export interface Kind {
  /** A value beside its name, with its unit. */
  value(value: number): string;
  /** A tick; `step` is the distance between ticks. */
  tick(value: number, step: number): string;
  /** Distances that ticks may have; absent: decimal ones. */
  steps?: number[];
}

const BINARY_STEPS = Array.from({ length: 50 }, (_, power) => 2 ** power);
const TIME_STEPS = [
  ...[1, 2, 5, 10, 20, 50, 100, 200, 500],
  ...[1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1_200, 1_800].map((seconds) => seconds * 1_000),
  ...[1, 2, 3, 6, 12, 24, 48, 120, 240].map((hours) => hours * 3_600_000),
];

export const KINDS = {
  number: { value: formatNumber, tick: decimalTick },
  count: { value: formatCount, tick: (value, step) => (step < 1 ? "" : formatCount(value)) },
  bytes: { value: formatBytes, tick: bytesTick, steps: BINARY_STEPS },
  ms: {
    value: formatDuration,
    tick: (value) => (value === 0 ? "0" : formatDuration(value)),
    steps: TIME_STEPS,
  },
  ratio: { value: formatRatio, tick: (value) => formatRatio(value) },
  tokensPerSecond: { value: (value) => `${formatNumber(value)} tok/s`, tick: decimalTick },
} as const satisfies Record<string, Kind>;

export type KindName = keyof typeof KINDS;

/** Writes a tick with as many decimals as the distance between ticks needs. */
function decimalTick(value: number, step: number): string {
  if (value === 0) return "0";
  if (Math.abs(value) < 1e-3 || (step < 1e-3 && Math.abs(value) < 0.1)) return shortExponent(value);
  const decimals = step >= 1 ? 0 : Math.min(6, Math.ceil(-Math.log10(step) - 1e-9));
  return value.toLocaleString("en-US", { minimumFractionDigits: decimals, maximumFractionDigits: decimals });
}

function bytesTick(value: number): string {
  return value === 0 ? "0" : formatBytes(value).replace(".0 ", " ");
}
