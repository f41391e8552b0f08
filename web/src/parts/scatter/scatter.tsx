/**
 * Points in a plane, each a link, in SVG: for tens or hundreds of trials. Options that are words have a place each;
 * a logarithmic axis is for values that are spread by ratios. A table with the same numbers stands beside it.
 */
import { useEffect, useRef, useState } from "preact/hooks";
import { KINDS, type Kind, type KindName } from "../chart/kinds.ts";
import { type Scale, scaleOf } from "./scale.ts";
import "./scatter.css";

export interface ScatterPoint {
  key: string;
  x: number | string;
  y: number;
  /** Spoken and shown when the pointer is on the point. */
  label: string;
  href?: string | undefined;
  /** best: the one to look at first; front: on the line; plain: others. */
  rank: "best" | "front" | "plain";
}

export interface ScatterProps {
  title: string;
  x: { label: string; kind: KindName; isLogarithmic?: boolean };
  y: { label: string; kind: KindName };
  points: readonly ScatterPoint[];
  /** Keys of points that a line connects, in its order. */
  line?: readonly string[];
  height?: number;
}

const MARGIN = { left: 64, right: 16, top: 10, bottom: 42 };

export function Scatter({ title, x, y, points, line = [], height = 240 }: ScatterProps) {
  const [box, width] = useWidth();
  const across = scaleOf(
    points.map((point) => point.x),
    [MARGIN.left, width - MARGIN.right],
    {
      isLogarithmic: x.isLogarithmic ?? false,
      ticks: Math.max(2, Math.floor((width - 80) / 70)),
      unit: x.kind === "bytes" ? bytesUnit(points) : 1,
    },
  );
  const up = scaleOf(
    points.map((point) => point.y),
    [height - MARGIN.bottom, MARGIN.top],
    { isLogarithmic: false, ticks: Math.floor(height / 45) },
  );
  const at = (point: ScatterPoint): [number, number] => [across.place(point.x), up.place(point.y)];
  const byKey = new Map(points.map((point) => [point.key, point]));
  const corners = line.flatMap((key) => byKey.get(key) ?? []).map(at);
  return (
    <figure class="chart">
      <figcaption class="chart-title">{title}</figcaption>
      <div ref={box}>
        {/* biome-ignore lint/a11y/useSemanticElements: a fieldset cannot stand in SVG. */}
        <svg class="scatter" width={width} height={height} role="group" aria-label={title}>
          <Axes across={across} up={up} x={x} y={y} width={width} height={height} />
          <path class="scatter-line" d={steppedPath(corners)} />
          {points.map((point) => (
            <Dot key={point.key} point={point} at={at(point)} />
          ))}
        </svg>
      </div>
    </figure>
  );
}

/** Returns the bytes of the unit, such as MiB, that the points are shown in. */
function bytesUnit(points: readonly ScatterPoint[]): number {
  const most = Math.max(1, ...points.map(({ x }) => Number(x)));
  return 1024 ** Math.floor(Math.log(most) / Math.log(1024));
}

/** Goes along the front as a staircase: what lies above it is beaten. */
function steppedPath(corners: readonly [number, number][]): string {
  return corners.map(([x, y], index) => (index === 0 ? `M${x} ${y}` : `H${x}V${y}`)).join("");
}

function Dot({ point, at: [x, y] }: { point: ScatterPoint; at: [number, number] }) {
  const dot = (
    <>
      <circle class="scatter-hit" cx={x} cy={y} r={12} />
      <circle class={`scatter-dot ${point.rank}`} cx={x} cy={y} r={point.rank === "best" ? 6.5 : 4.5}>
        <title>{point.label}</title>
      </circle>
    </>
  );
  return point.href ? (
    <a href={point.href} aria-label={point.label}>
      {dot}
    </a>
  ) : (
    // biome-ignore lint/a11y/noInteractiveElementToNoninteractiveRole: a group of SVG is not interactive.
    <g role="img" aria-label={point.label}>
      {dot}
    </g>
  );
}

interface AxesProps extends Pick<ScatterProps, "x" | "y"> {
  across: Scale;
  up: Scale;
  width: number;
  height: number;
}

function Axes({ across, up, x, y, width, height }: AxesProps) {
  const bottom = height - MARGIN.bottom;
  return (
    // biome-ignore lint/a11y/noAriaHiddenOnFocusable: nothing in it takes the focus; the points are spoken.
    <g class="scatter-axes" aria-hidden="true">
      {up.ticks.map((tick) => (
        <g key={tick}>
          <path d={`M${MARGIN.left} ${up.place(tick)}H${width - MARGIN.right}`} />
          <text x={MARGIN.left - 8} y={up.place(tick) + 4} text-anchor="end">
            {tickText(tick, up, y.kind)}
          </text>
        </g>
      ))}
      {across.ticks.map((tick) => (
        <g key={tick}>
          <path d={`M${across.place(tick)} ${MARGIN.top}V${bottom}`} />
          <text x={across.place(tick)} y={bottom + 16} text-anchor="middle">
            {tickText(tick, across, x.kind)}
          </text>
        </g>
      ))}
      <text
        class="scatter-label"
        x={(MARGIN.left + width - MARGIN.right) / 2}
        y={height - 6}
        text-anchor="middle"
      >
        {x.label}
        {x.isLogarithmic && " (logarithmic)"}
      </text>
    </g>
  );
}

function tickText(tick: number | string, { tickStep }: Scale, name: KindName): string {
  if (typeof tick === "string") return tick;
  const kind: Kind = KINDS[name];
  return tickStep === undefined ? kind.value(tick).replace(/\.0+$/, "") : kind.tick(tick, tickStep);
}

/** Returns a box and its width, which follows the page's. */
function useWidth(): [box: { current: HTMLDivElement | null }, width: number] {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(360);
  useEffect(() => {
    const target = box.current!;
    const observer = new ResizeObserver(() => setWidth(Math.max(220, target.clientWidth)));
    observer.observe(target);
    return () => observer.disconnect();
  }, []);
  return [box, width];
}
