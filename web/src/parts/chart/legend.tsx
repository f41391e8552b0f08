/** Names of a chart's series with their values under the cursor. A click hides a series. */
import type { Signal } from "@preact/signals";
import { KINDS } from "./kinds.ts";
import { type ChartModel, lastKnown, type Series } from "./model.ts";

interface LegendProps {
  model: ChartModel;
  cursor: Signal<number | undefined>;
  hidden: ReadonlySet<string>;
  onToggle(label: string): void;
}

export function Legend({ model, cursor, hidden, onToggle }: LegendProps) {
  const index = cursor.value ?? model.rest ?? model.xs.length - 1;
  const at = model.xs[index];
  return (
    <ul class="chart-legend">
      {at !== undefined && (
        <li>
          {model.x.label} <output>{KINDS[model.x.kind].value(at)}</output>
        </li>
      )}
      {model.series.map((series) => (
        <li key={series.label}>
          <Name series={series} isHidden={hidden.has(series.label)} onToggle={onToggle} />{" "}
          <output>{valueAt(model, series, index)}</output>
        </li>
      ))}
    </ul>
  );
}

/** An area can't be hidden: what lies on it would fall. */
function Name({
  series,
  isHidden,
  onToggle,
}: { series: Series; isHidden: boolean } & Pick<LegendProps, "onToggle">) {
  const name = (
    <>
      <span
        class={`swatch tone-${series.tone} ${series.draw === "area" ? "" : "swatch-line"}`}
        aria-hidden="true"
      />
      {series.label}
    </>
  );
  if (series.draw === "area") return name;
  return (
    <button type="button" aria-pressed={!isHidden} onClick={() => onToggle(series.label)}>
      {name}
    </button>
  );
}

function valueAt(model: ChartModel, { values }: Series, index: number): string {
  const value = lastKnown(values, index);
  return value === undefined ? "" : KINDS[model.y.kind].value(value);
}
