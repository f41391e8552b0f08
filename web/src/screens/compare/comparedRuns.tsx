/** Curves of several runs over one axis, and what sets the runs apart. */

import { useMemo, useState } from "preact/hooks";
import { aligned, type Curve } from "../../lib/align.ts";
import { formatCount } from "../../lib/format.ts";
import { scoreName, scoresOf } from "../../lib/scores.ts";
import { smoothed, spanOf } from "../../lib/smooth.ts";
import { X_AXES, type XAxis, xAxisOf, xOfStep, xsOf } from "../../lib/xAxis.ts";
import { type RunHistory, useRuns } from "../../live/runHistory.ts";
import { Chart } from "../../parts/chart/chart.tsx";
import type { KindName } from "../../parts/chart/kinds.ts";
import type { Series, Tone } from "../../parts/chart/model.ts";
import { Smoothing } from "../../parts/smoothing.tsx";
import { RunStateBadge } from "../../parts/stateBadge.tsx";
import { Loading, Problem } from "../../parts/states.tsx";
import { XAxisChoice } from "../../parts/xAxisChoice.tsx";
import { hrefOf, route, setQuery } from "../../router.ts";
import { DifferenceTable } from "./differenceTable.tsx";
import type { Shown } from "./shown.ts";

const TONES: readonly Tone[] = ["1", "2", "3", "4", "5", "6", "7", "8"];

export function ComparedRuns({ ids }: { ids: readonly string[] }) {
  const followed = useRuns(ids);
  const shown = ids.flatMap((id, index): Shown[] => {
    const history = followed.get(id)?.history;
    if (!history) return [];
    return [{ history, label: history.summary.path, tone: TONES[index % TONES.length]! }];
  });
  const problems = ids.flatMap((id) => {
    const run = followed.get(id);
    return run?.problem && !run.history ? [{ id, problem: run.problem }] : [];
  });
  return (
    <div class="stack">
      <div class="screen-head">
        <h1>{ids.length === 1 ? "One run" : `Compare ${formatCount(ids.length)} runs`}</h1>
      </div>
      {problems.map(({ id, problem }) => (
        <Problem key={id} of={problem} />
      ))}
      <Names shown={shown} ids={ids} />
      {shown.length === 0 && problems.length === 0 && <Loading what="runs" />}
      {shown.length > 0 && (
        <>
          <Curves shown={shown} />
          <DifferenceTable shown={shown} />
        </>
      )}
    </div>
  );
}

function Names({ shown, ids }: { shown: readonly Shown[]; ids: readonly string[] }) {
  return (
    <ul class="row compared">
      {shown.map(({ history: { summary }, label, tone }) => (
        <li key={summary.id} class="row">
          <span class={`swatch swatch-line tone-${tone}`} aria-hidden="true" />
          <a href={hrefOf("run", [summary.id])}>{label}</a>
          <RunStateBadge state={summary.state} />
          <button
            type="button"
            class="quiet"
            aria-label={`Leave out ${label}`}
            onClick={() => setQuery({ runs: ids.filter((id) => id !== summary.id).join(",") })}
          >
            ×
          </button>
        </li>
      ))}
    </ul>
  );
}

function Curves({ shown }: { shown: readonly Shown[] }) {
  const axis = xAxisOf(route.value.query.get("x"));
  const [position, setPosition] = useState(40);
  const span = spanOf(position);
  const charts = useMemo(
    () => chartsOf(shown, axis, span),
    [axis, span, ...shown.map(({ history }) => history.cursor)],
  );
  return (
    <section class="stack" aria-label="Curves">
      <div class="row">
        <Smoothing position={position} span={span} choose={setPosition} />
        <XAxisChoice axis={axis} />
      </div>
      <div class="compare-charts">
        {charts.map(({ title, kind, fromZero, xs, series }, index) => (
          <div class="panel" key={title}>
            <Chart
              title={title}
              x={X_AXES[axis]}
              y={{ label: title, kind, ...(fromZero && { fromZero }) }}
              xs={xs}
              series={series}
              sync="compare"
              height={index < 2 ? 260 : 170}
            />
          </div>
        ))}
      </div>
    </section>
  );
}

interface ComparedChart {
  title: string;
  kind: KindName;
  fromZero?: boolean;
  xs: number[];
  series: Series[];
}

type Column = "gradNorm" | "lr" | "tokensPerSecond" | "peakBytes";

const COLUMNS: { title: string; column: Column; kind: KindName; fromZero?: boolean }[] = [
  { title: "Peak memory", column: "peakBytes", kind: "bytes", fromZero: true },
  { title: "Speed", column: "tokensPerSecond", kind: "tokensPerSecond", fromZero: true },
  { title: "Gradient norm", column: "gradNorm", kind: "number" },
  { title: "Learning rate", column: "lr", kind: "number", fromZero: true },
];

function chartsOf(shown: readonly Shown[], axis: XAxis, span: number): ComparedChart[] {
  const places = shown.map(({ history: { steps, summary } }) => xsOf(steps, axis, summary));
  const joined = (
    curveOf: (history: RunHistory, xs: readonly number[]) => Curve,
    draw: "line" | "dots" = "line",
  ): Pick<ComparedChart, "xs" | "series"> => {
    const { xs, values } = aligned(shown.map(({ history }, index) => curveOf(history, places[index]!)));
    const series = shown.map(({ label, tone }, index): Series => {
      return { label, tone, draw, values: values[index]! };
    });
    return { xs, series };
  };
  const evaluated =
    (take: (record: RunHistory["evals"][number]) => number | null) =>
    ({ steps, evals }: RunHistory, xs: readonly number[]): Curve => ({
      xs: evals.map(({ step }) => xOfStep(steps, xs, step)),
      values: evals.map(take),
    });
  const scores = new Set(
    shown.flatMap(({ history }) => history.evals.flatMap((each) => Object.keys(scoresOf(each)))),
  );
  const hasEvals = shown.some(({ history }) => history.evals.length > 0);
  return [
    {
      ...{ title: "Loss, smoothed", kind: "number" },
      ...joined(({ steps }, xs) => ({ xs, values: smoothed(steps.step, steps.loss, span) })),
    },
    ...(hasEvals
      ? [
          {
            ...{ title: "Evaluation loss", kind: "number" as const },
            ...joined(
              evaluated(({ loss }) => loss),
              "dots",
            ),
          },
        ]
      : []),
    ...[...scores].map((name) => ({
      ...{ title: scoreName(name), kind: "ratio" as const, fromZero: true },
      ...joined(
        evaluated((record) => scoresOf(record)[name] ?? null),
        "dots",
      ),
    })),
    ...COLUMNS.map(({ column, ...chart }) => ({
      ...chart,
      ...joined(({ steps }, xs) => ({ xs, values: steps[column] })),
    })),
  ];
}
