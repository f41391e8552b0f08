/**
 * The figure of a run's memory over one step: by category as measured, with the planned outline over it and
 * the limit.
 */

import { PART_TITLES } from "../../answer/partTitles.ts";
import { formatBytes, formatCount, GIB } from "../../errors.ts";
import { alignedTo, type StepProfile, totalsOf } from "../../plan/memory/stepProfile.ts";
import { CATEGORIES, type Category, type Pool } from "../../torch/device.ts";
import type { StepMemory } from "../../train/folder/stepMemory.ts";
import { stackedAreas } from "../output/areaCharts.ts";
import { escaped, htmlTable } from "../output/page.ts";

/** Returns the figure with its caption and table. */
export function stepMemoryFigure(memory: StepMemory): string {
  const { measured, planned, step, tokens } = memory;
  const caption = `The last micro-batch of step ${formatCount(step)} (${formatCount(tokens)} tokens) and the update of the factors. The line is the plan.`;
  const rows = measured.phases.map(({ name }) => [
    name,
    formatBytes(peakIn(measured, name, "device")),
    formatBytes(peakIn(planned, name, "device")),
    formatBytes(peakIn(measured, name, "host")),
    largestIn(measured, name),
  ]);
  const headings = ["phase", "measured peak", "planned peak", "host memory", "largest part"];
  return `<figure>\n${chartOf(memory)}\n<figcaption>${escaped(caption)}</figcaption>\n${htmlTable(headings, rows)}\n</figure>`;
}

function chartOf({ measured, planned, limits: { deviceBytes }, besideBytes, device }: StepMemory): string {
  const most = Math.max(deviceBytes ?? 0, besideBytes + Math.max(0, ...totalsOf(measured, "device")));
  const [unit, unitBytes] = most < GIB ? (["MiB", 2 ** 20] as const) : (["GiB", GIB] as const);
  const beside = { name: "CUDA context, rounding", bytes: besideBytes };
  const moments = totalsOf(measured, "device").length;
  const layers = Object.entries(measured.device).map(([name, bytes]) => ({
    name: PART_TITLES[name] ?? name,
    values: bytes.map((amount) => amount / unitBytes),
  }));
  const constant = { name: beside.name, values: Array<number>(moments).fill(beside.bytes / unitBytes) };
  const outline = alignedTo(measured, { phases: planned.phases, values: totalsOf(planned, "device") });
  return stackedAreas({
    title: `Memory of ${device} over one step, ${unit}`,
    layers: besideBytes > 0 ? [constant, ...layers] : layers,
    phases: measured.phases.flatMap(({ name, moments: count }) => Array<string>(count).fill(name)),
    outline: {
      name: "planned",
      values: outline.map((bytes) => bytes && (bytes + besideBytes) / unitBytes),
    },
    limit:
      deviceBytes === undefined
        ? undefined
        : { name: `limit ${formatBytes(deviceBytes)}`, value: deviceBytes / unitBytes },
  });
}

/** Returns the numbers of a phase's moments. */
function inPhase<T>({ phases }: StepProfile, name: string, values: readonly T[]): T[] {
  let from = 0;
  return phases.flatMap((phase) => {
    const start = from;
    from += phase.moments;
    return phase.name === name ? values.slice(start, from) : [];
  });
}

function peakIn(profile: StepProfile, name: string, pool: Pool): number {
  return Math.max(0, ...inPhase(profile, name, totalsOf(profile, pool)));
}

function largestIn(profile: StepProfile, name: string): string {
  const most = (category: Category): number =>
    Math.max(0, ...inPhase(profile, name, profile.device[category] ?? []));
  const largest = CATEGORIES.reduce((best, other) => (most(other) > most(best) ? other : best));
  return PART_TITLES[largest] ?? largest;
}
