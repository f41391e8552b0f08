/** A sweep: its metric against each option, and against memory with the Pareto front; its trials as a table. */
import { useMemo } from "preact/hooks";
import type { SweepDetail } from "../../../../src/server/ui/api.ts";
import { getJson } from "../../api.ts";
import { formatBytes, formatNumber } from "../../lib/format.ts";
import { paretoFront } from "../../lib/pareto.ts";
import { scoreName } from "../../lib/scores.ts";
import { settingText } from "../../lib/settings.ts";
import { isLogarithmic } from "../../lib/ticks.ts";
import { trialsOf } from "../../lib/words.ts";
import { runList, useRunList } from "../../live/runList.ts";
import { CopyBlock } from "../../parts/copy.tsx";
import { Scatter, type ScatterPoint } from "../../parts/scatter/scatter.tsx";
import { Loading, Problem } from "../../parts/states.tsx";
import { useLoaded } from "../../parts/useLoaded.ts";
import { hrefOf, route, setQuery } from "../../router.ts";
import { type Metric, metricOf, metricsOf, peakOf, type SweepTrial, sortedByMetric } from "./trials.ts";
import { TrialTable } from "./trialTable.tsx";

export function Sweep({ id }: { id: string }) {
  useRunList();
  const changedAtMs = runList.value?.sweeps.find((sweep) => sweep.id === id)?.updatedAtMs;
  const { value, ...loaded } = useLoaded(
    (signal) => getJson<SweepDetail>(`sweeps/${encodeURIComponent(id)}`, {}, signal),
    [id, changedAtMs],
  );
  if (!value)
    return loaded.state === "failed" ? <Problem of={loaded.problem} /> : <Loading what="the sweep" />;
  return <Shown detail={value} />;
}

function Shown({ detail }: { detail: SweepDetail }) {
  const { summary, table, folder } = detail;
  const metrics = metricsOf(detail);
  const wanted = route.value.query.get("metric");
  const metric = metrics.find(({ name }) => name === wanted) ?? table.metric;
  const measured = table.trials.filter((trial) => metricOf(trial, metric) !== undefined);
  return (
    <div class="stack">
      <header>
        <div class="screen-head">
          <h1>Sweep {summary.path}</h1>
          <span>
            {summary.state}, {summary.strategy}
          </span>
          <span class="muted">{trialsOf(summary.trials)}</span>
        </div>
        <p class="muted mono">{folder}</p>
      </header>
      <div class="row">
        <label class="row">
          Metric
          <select value={metric.name} onChange={(event) => setQuery({ metric: event.currentTarget.value })}>
            {metrics.map(({ name, better }) => (
              <option key={name} value={name}>
                {scoreName(name)} ({better} is better)
              </option>
            ))}
          </select>
        </label>
        <CurvesLink trials={measured} metric={metric} />
      </div>
      {measured.length === 0 ? (
        <p class="muted">No trial has been evaluated yet.</p>
      ) : (
        <Plots detail={detail} trials={measured} metric={metric} />
      )}
      {table.reproduce !== null && (
        <section class="panel">
          <h2>Train the best trial again</h2>
          <CopyBlock text={table.reproduce} label="Command that trains the best trial again" />
        </section>
      )}
      <TrialTable detail={detail} metric={metric} />
    </div>
  );
}

const MOST_CURVES = 8;

function CurvesLink({ trials, metric }: { trials: readonly SweepTrial[]; metric: Metric }) {
  const best = sortedByMetric(trials, metric).flatMap(({ runId }) => runId ?? []);
  if (best.length < 2) return null;
  const ids = best.slice(0, MOST_CURVES);
  return (
    <a href={hrefOf("compare", [], { runs: ids.join(",") })}>
      {best.length > ids.length ? `Curves of the best ${ids.length} trials` : "Curves of its trials"}
    </a>
  );
}

interface PlotsProps {
  detail: SweepDetail;
  trials: readonly SweepTrial[];
  metric: Metric;
}

function Plots({ detail: { table }, trials, metric }: PlotsProps) {
  const [best] = sortedByMetric(trials, metric);
  const withMemory = useMemo(() => trials.filter((trial) => peakOf(trial) !== undefined), [trials]);
  const front = paretoFront(
    withMemory.map((trial) => ({ x: peakOf(trial)!, y: metricOf(trial, metric)! })),
    metric.better,
  ).map((index) => withMemory[index]!);
  const pointsOf = (some: readonly SweepTrial[], x: (trial: SweepTrial) => number | string): ScatterPoint[] =>
    some.map((trial) => ({
      ...{ key: String(trial.trial), x: x(trial), y: metricOf(trial, metric)! },
      label: trialWords(trial, metric),
      href: trial.runId === undefined ? undefined : hrefOf("run", [trial.runId]),
      rank: trial === best ? "best" : "plain",
    }));
  const y = { label: scoreName(metric.name), kind: "number" } as const;
  const frontKeys = new Set(front.map(({ trial }) => String(trial)));
  return (
    <>
      <p class="row muted">
        <span>
          <span class="swatch tone-2" aria-hidden="true" />
          the best trial
        </span>
        <span>
          <span class="swatch tone-1" aria-hidden="true" />
          on the Pareto front: no other trial has a better {y.label} in as little memory
        </span>
      </p>
      <div class="plots">
        {withMemory.length > 0 && (
          <div class="panel">
            <Scatter
              title={`${y.label} and peak memory`}
              x={{ label: "peak memory", kind: "bytes" }}
              y={y}
              points={pointsOf(withMemory, (trial) => peakOf(trial)!).map((point) =>
                point.rank === "plain" && frontKeys.has(point.key) ? { ...point, rank: "front" } : point,
              )}
              line={front.map(({ trial }) => String(trial))}
            />
          </div>
        )}
        {table.varied.map((name) => {
          const values = trials.map(({ options }) => options[name]);
          const areNumbers = values.every((value): value is number => typeof value === "number");
          return (
            <div class="panel" key={name}>
              <Scatter
                title={`${y.label} and ${name}`}
                x={{ label: name, kind: "number", isLogarithmic: areNumbers && isLogarithmic(values) }}
                y={y}
                points={pointsOf(trials, ({ options }) =>
                  areNumbers ? (options[name] as number) : settingText(options[name], name),
                )}
              />
            </div>
          );
        })}
      </div>
    </>
  );
}

function trialWords(trial: SweepTrial, metric: Metric): string {
  const options = Object.entries(trial.options).map(([name, value]) => `${name} ${settingText(value, name)}`);
  return [
    `trial ${trial.trial}`,
    `${scoreName(metric.name)} ${formatNumber(metricOf(trial, metric))}`,
    `peak ${formatBytes(peakOf(trial))}`,
    ...options,
  ].join(", ");
}
