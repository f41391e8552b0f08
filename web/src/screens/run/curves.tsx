/** The curves of a run, below each other over one x axis. */

import { useMemo, useState } from "preact/hooks";
import type { EvalRecord, StepColumns } from "../../../../src/server/ui/api.ts";
import { aligned } from "../../lib/align.ts";
import { scoreName, scoresOf } from "../../lib/scores.ts";
import { smoothed, spanOf } from "../../lib/smooth.ts";
import { X_AXES, xAxisOf, xOfStep, xsOf } from "../../lib/xAxis.ts";
import type { RunHistory } from "../../live/runHistory.ts";
import { Chart } from "../../parts/chart/chart.tsx";
import type { KindName } from "../../parts/chart/kinds.ts";
import type { ChartModel, Series } from "../../parts/chart/model.ts";
import { Smoothing } from "../../parts/smoothing.tsx";
import { Empty } from "../../parts/states.tsx";
import { XAxisChoice } from "../../parts/xAxisChoice.tsx";
import { route } from "../../router.ts";

const SYNC = "run";

export function Curves({ history }: { history: RunHistory }) {
  const { steps, evals, summary } = history;
  const axis = xAxisOf(route.value.query.get("x"));
  const [position, setPosition] = useState(40);
  const span = spanOf(position);
  const xs = useMemo(() => xsOf(steps, axis, summary), [steps, axis, summary.tokens]);
  const marks = useMarks(history, xs);
  const loss = useMemo(() => lossCurves(steps, evals, xs, span), [steps, evals, xs, span]);
  const scores = useMemo(() => scoreCurves(steps, evals, xs), [steps, evals, xs]);
  if (steps.step.length === 0) return <Empty>No step is done yet.</Empty>;
  const shared = { x: X_AXES[axis], sync: SYNC, marks };
  return (
    <section class="stack" aria-label="Curves">
      <div class="row">
        <h2>Curves</h2>
        <Smoothing position={position} span={span} choose={setPosition} />
        <XAxisChoice axis={axis} />
        {marks.length > 0 && (
          <span class="muted">
            <span class="tone-bad">▼</span> memory ran out, and the run continued in less
          </span>
        )}
      </div>
      <div class="panel">
        <Chart title="Loss" y={{ label: "loss", kind: "number" }} height={260} {...shared} {...loss} />
      </div>
      <div class="multiples">
        {scores && (
          <div class="panel">
            <Chart
              title="Answers"
              y={{ label: "score", kind: "ratio", fromZero: true }}
              height={150}
              {...shared}
              {...scores}
            />
          </div>
        )}
        {CURVES.map(({ title, column, kind, fromZero }) => (
          <div class="panel" key={column}>
            <Chart
              title={title}
              y={{ label: title, kind, ...(fromZero && { fromZero }) }}
              height={150}
              {...shared}
              xs={xs}
              series={[{ label: LABELS[column] ?? column, values: steps[column], tone: "1" }]}
            />
          </div>
        ))}
      </div>
    </section>
  );
}

type Column = "lr" | "gradNorm" | "tokensPerSecond" | "stepMs" | "dataWaitRatio";

const CURVES: { title: string; column: Column; kind: KindName; fromZero?: boolean }[] = [
  { title: "Learning rate", column: "lr", kind: "number", fromZero: true },
  { title: "Gradient norm", column: "gradNorm", kind: "number" },
  { title: "Speed", column: "tokensPerSecond", kind: "tokensPerSecond", fromZero: true },
  { title: "Time of a step", column: "stepMs", kind: "ms", fromZero: true },
  { title: "Waiting for data", column: "dataWaitRatio", kind: "ratio", fromZero: true },
];

const LABELS: Partial<Record<Column, string>> = {
  lr: "rate",
  gradNorm: "norm",
  tokensPerSecond: "speed",
  stepMs: "time",
  dataWaitRatio: "share of the step",
};

/** Returns a mark where memory ran out and the run continued in less. */
function useMarks({ events, steps }: RunHistory, xs: readonly number[]): NonNullable<ChartModel["marks"]> {
  return useMemo(
    () =>
      events.flatMap((event) =>
        event.fact === "leaner"
          ? [{ at: xOfStep(steps, xs, event.step), label: event.text, tone: "bad" as const }]
          : [],
      ),
    [events, xs],
  );
}

type Curves = Pick<ChartModel, "xs" | "series">;

function lossCurves(
  steps: StepColumns,
  evals: readonly EvalRecord[],
  xs: readonly number[],
  span: number,
): Curves {
  const raw = { xs, values: steps.loss };
  const smooth = { xs, values: smoothed(steps.step, steps.loss, span) };
  const evaluated = {
    xs: evals.map(({ step }) => xOfStep(steps, xs, step)),
    values: evals.map(({ loss }) => loss),
  };
  const { xs: all, values } = aligned([raw, smooth, evaluated]);
  const series: Series[] = [
    { label: "loss", values: values[0]!, tone: "1", draw: span > 1 ? "faint" : "line" },
    ...(span > 1 ? [{ label: "smoothed", values: values[1]!, tone: "1" as const }] : []),
    ...(evals.length > 0
      ? [{ label: "evaluation", values: values[2]!, tone: "2" as const, draw: "dots" as const }]
      : []),
  ];
  return { xs: all, series };
}

/** Returns scores of answers over the run; undefined if no evaluation had answers. */
function scoreCurves(
  steps: StepColumns,
  evals: readonly EvalRecord[],
  xs: readonly number[],
): Curves | undefined {
  const records = evals.map(scoresOf);
  const names = [...new Set(records.flatMap((record) => Object.keys(record)))];
  if (names.length === 0) return undefined;
  const at = evals.map(({ step }) => xOfStep(steps, xs, step));
  const curves = names.map((name) => ({ xs: at, values: records.map((record) => record[name] ?? null) }));
  const { xs: all, values } = aligned([{ xs, values: xs.map(() => null) }, ...curves]);
  const series = names.map((name, index): Series => {
    return {
      ...{ label: scoreName(name), values: values[index + 1]!, draw: "dots" },
      tone: TONES[index % TONES.length]!,
    };
  });
  return { xs: all, series };
}

const TONES = ["1", "2", "3", "4", "5"] as const;
