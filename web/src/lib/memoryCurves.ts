/** The memory over one step as areas by category, with the plan as an outline over them. */
import type { Category, MemoryProfile, MemoryTimeline } from "../../../src/server/ui/api.ts";
import type { Axis, ChartModel, Series } from "../parts/chart/model.ts";
import { heldAt } from "./align.ts";
import { CATEGORIES, CATEGORY_ORDER } from "./words.ts";

export interface MemoryCurves {
  x: Axis;
  xs: number[];
  series: Series[];
  /** Index of the x where most is held. */
  peak: number;
  /** A line where each phase of the step begins. */
  phases: NonNullable<ChartModel["marks"]>;
}

/** Returns the measured areas and the planned outline; the planned areas if nothing was measured yet. */
export function memoryCurves({ measured, planned }: MemoryProfile): MemoryCurves {
  const shown = measured ?? planned;
  if (!shown) return { x: { label: "moment", kind: "count" }, xs: [], series: [], peak: 0, phases: [] };
  const outline = measured && planned && sameAxis(planned, measured);
  const xs = outline
    ? [...new Set([...shown.x, ...outline.x])].sort((one, other) => one - other)
    : [...shown.x];
  const areas = CATEGORY_ORDER.flatMap((category): Series[] => {
    const values = shown.byCategory[category];
    if (!values?.some((bytes) => bytes > 0)) return [];
    const { name, tone } = CATEGORIES[category];
    return [{ label: name, tone, draw: "area", values: heldAt(xs, { xs: shown.x, values }) }];
  });
  const plan: Series[] = outline
    ? [
        {
          label: "planned",
          tone: "text",
          draw: "outline",
          values: heldAt(xs, { xs: outline.x, values: totalsOf(outline) }),
        },
      ]
    : [];
  return {
    x: shown.axis === "ms" ? { label: "time", kind: "ms" } : { label: "moment", kind: "count" },
    xs,
    series: [...areas, ...plan],
    peak: indexOfMost(heldAt(xs, { xs: shown.x, values: totalsOf(shown) })),
    phases: (shown.phases ?? []).map(({ name, from }) => ({
      ...{ at: from, label: name, tone: "muted" as const, isLabelled: true },
    })),
  };
}

/** Returns the timeline with its x in the other's unit: a plan knows the order of allocations, not their time. */
function sameAxis(timeline: MemoryTimeline, other: MemoryTimeline): MemoryTimeline {
  if (timeline.axis === other.axis) return timeline;
  const [from, to] = [timeline, other].map(({ x }) => [x[0] ?? 0, x.at(-1) ?? 1] as const) as [
    readonly [number, number],
    readonly [number, number],
  ];
  const scale = (to[1] - to[0]) / (from[1] - from[0] || 1);
  return { ...timeline, axis: other.axis, x: timeline.x.map((x) => to[0] + (x - from[0]) * scale) };
}

function totalsOf({ x, byCategory }: MemoryTimeline): number[] {
  const all = Object.values(byCategory) as NonNullable<MemoryTimeline["byCategory"][Category]>[];
  return x.map((_, index) => all.reduce((sum, values) => sum + (values[index] ?? 0), 0));
}

function indexOfMost(values: readonly (number | null)[]): number {
  return values.reduce<number>(
    (best, value, index) => ((value ?? 0) > (values[best] ?? 0) ? index : best),
    0,
  );
}
