/**
 * A chart with its legend, a cursor for mouse and arrow keys, zoom by dragging, and a table with the same
 * numbers. It follows its box's width and the theme, and draws new data without losing cursor and zoom.
 */
import { type signal, useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type uPlot from "uplot";
import "uplot/dist/uPlot.min.css";
import { paint } from "../../theme.ts";
import "./chart.css";
import { ChartTable } from "./chartTable.tsx";
import { KINDS } from "./kinds.ts";
import { Legend } from "./legend.tsx";
import { type ChartModel, lastKnown } from "./model.ts";
import { createPlot, drawingOrder, plotData } from "./plot.ts";

export interface ChartProps extends ChartModel {
  /** CSS pixels of the plot, with its axes. */
  height?: number;
}

export function Chart({ height = 200, ...model }: ChartProps) {
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const cursor = useSignal<number | undefined>(undefined);
  const [hidden, setHidden] = useState<ReadonlySet<string>>(new Set());
  const latest = useRef(model);
  latest.current = model;

  useEffect(() => {
    const target = box.current!;
    const drawn = createPlot(target, latest.current, {
      width: Math.max(200, target.clientWidth),
      height,
      onCursor: (index) => {
        cursor.value = index;
      },
    });
    plot.current = drawn;
    for (const [position, index] of drawingOrder(latest.current.series).entries())
      if (hidden.has(latest.current.series[index]!.label)) drawn.setSeries(position + 1, { show: false });
    const observer = new ResizeObserver(() => {
      if (target.clientWidth > 0) drawn.setSize({ width: target.clientWidth, height });
    });
    observer.observe(target);
    return () => {
      observer.disconnect();
      drawn.destroy();
      plot.current = undefined;
    };
  }, [shapeOf(model), height, hidden, paint.value]);

  useEffect(() => {
    if (plot.current) redraw(plot.current, model);
  }, [model.xs, ...model.series.map(({ values }) => values)]);

  return (
    <figure class="chart">
      <figcaption class="chart-head">
        <span class="chart-title">{model.title}</span>
        <Legend
          model={model}
          cursor={cursor}
          hidden={hidden}
          onToggle={(label) => setHidden((before) => toggled(before, label))}
        />
      </figcaption>
      <Plot model={model} box={box} plot={plot} cursor={cursor} />
      <ChartTable model={model} />
    </figure>
  );
}

interface PlotProps {
  model: ChartModel;
  box: { current: HTMLDivElement | null };
  plot: { current: uPlot | undefined };
  cursor: ReturnType<typeof signal<number | undefined>>;
}

/** Holds the canvas; for a keyboard and a screen reader a slider over the chart's x values. */
function Plot({ model, box, plot, cursor }: PlotProps) {
  const last = Math.max(0, model.xs.length - 1);
  const at = Math.min(cursor.value ?? model.rest ?? last, last);
  const move = (event: KeyboardEvent): void => {
    const index = movedIndex(event, at, last);
    if (index === undefined || !plot.current) return;
    event.preventDefault();
    const left = plot.current.valToPos(model.xs[index] ?? 0, "x");
    setSharedCursor(plot.current, left);
  };
  return (
    <div
      ref={box}
      class="chart-plot"
      role="slider"
      tabIndex={0}
      aria-label={`${model.title}, by ${model.x.label}`}
      aria-orientation="horizontal"
      aria-valuemin={0}
      aria-valuemax={last}
      aria-valuenow={at}
      aria-valuetext={useMemo(() => spoken(model, at), [model.xs, at])}
      onKeyDown={move}
    />
  );
}

/** Moves the cursor of all charts that share it; uPlot's types lack the argument for the others. */
function setSharedCursor(plot: uPlot, left: number): void {
  const set = plot.setCursor as (at: { left: number; top: number }, fire: boolean, share: boolean) => void;
  set({ left, top: 10 }, true, true);
}

function movedIndex({ key, shiftKey }: KeyboardEvent, at: number, last: number): number | undefined {
  const stride = shiftKey ? Math.max(1, Math.round(last / 20)) : 1;
  const moves: Record<string, number> = {
    ArrowLeft: at - stride,
    ArrowRight: at + stride,
    PageUp: at - Math.max(1, Math.round(last / 10)),
    PageDown: at + Math.max(1, Math.round(last / 10)),
    Home: 0,
    End: last,
  };
  const index = moves[key];
  return index === undefined ? undefined : Math.max(0, Math.min(last, index));
}

function spoken(model: ChartModel, index: number): string {
  const at = model.xs[index];
  if (at === undefined) return "no data";
  const values = model.series.flatMap(({ label, values }) => {
    const value = lastKnown(values, index);
    return value === undefined ? [] : [`${label} ${KINDS[model.y.kind].value(value)}`];
  });
  return `${model.x.label} ${KINDS[model.x.kind].value(at)}: ${values.join(", ")}`;
}

/** Draws new data. A zoom that the user has made stays. */
function redraw(plot: uPlot, model: ChartModel): void {
  const [before] = plot.data;
  const { min, max } = plot.scales.x!;
  const [first, last] = [before[0], before.at(-1)];
  const isZoomed =
    typeof min === "number" && typeof max === "number" && first !== undefined && last !== undefined
      ? min > first || max < last
      : false;
  if (!isZoomed) plot.setData(plotData(model));
  else {
    plot.setData(plotData(model), false);
    plot.setScale("x", { min: min!, max: max! });
  }
}

/** Returns what makes a new plot necessary, and not new data only. */
function shapeOf({ title, x, y, series, marks, levels, isStepped, sync, xs }: ChartModel): string {
  const shape = series.map(({ label, tone, draw }) => [label, tone, draw]);
  return JSON.stringify([title, x, y, shape, marks, levels, isStepped, sync, xs.length < 3]);
}

function toggled(before: ReadonlySet<string>, label: string): ReadonlySet<string> {
  const after = new Set(before);
  if (!after.delete(label)) after.add(label);
  return after;
}
