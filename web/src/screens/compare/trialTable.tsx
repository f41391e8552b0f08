/** The trials of a sweep, the best first. */
import type { SweepDetail } from "../../../../src/server/ui/api.ts";
import { formatBytes, formatCount, formatNumber } from "../../lib/format.ts";
import { scoreName } from "../../lib/scores.ts";
import { settingText } from "../../lib/settings.ts";
import { TrialStateBadge } from "../../parts/stateBadge.tsx";
import { hrefOf } from "../../router.ts";
import { type Metric, metricOf, type SweepTrial, sortedByMetric } from "./trials.ts";

export function TrialTable({ detail: { table }, metric }: { detail: SweepDetail; metric: Metric }) {
  const others = [
    ...new Set(["evalLoss", ...table.trials.flatMap(({ metrics }) => Object.keys(metrics))]),
  ].filter((name) => name !== metric.name);
  return (
    <section class="panel" aria-labelledby="trials">
      <h2 id="trials">Trials</h2>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a wide table scrolls, also by keyboard. */}
      <section class="scroll-x" tabIndex={0} aria-label="Table of trials">
        <table class="trials">
          <thead>
            <tr>
              <th scope="col">Trial</th>
              <th scope="col">State</th>
              {table.varied.map((name) => (
                <th key={name} scope="col" class="number mono">
                  {name}
                </th>
              ))}
              {[metric.name, ...others].map((name) => (
                <th key={name} scope="col" class="number">
                  {scoreName(name)}
                </th>
              ))}
              <th scope="col" class="number">
                Planned
              </th>
              <th scope="col" class="number">
                Peak
              </th>
              <th scope="col" class="number">
                Step
              </th>
              <th scope="col">Note</th>
            </tr>
          </thead>
          <tbody>
            {sortedByMetric(table.trials, metric).map((trial) => (
              <Row
                key={trial.trial}
                trial={trial}
                varied={table.varied}
                metrics={[metric.name, ...others]}
                isBest={trial.trial === table.best}
              />
            ))}
          </tbody>
        </table>
      </section>
    </section>
  );
}

interface RowProps {
  trial: SweepTrial;
  varied: readonly string[];
  metrics: readonly string[];
  isBest: boolean;
}

function Row({ trial, varied, metrics, isBest }: RowProps) {
  return (
    <tr class={isBest ? "is-best" : ""}>
      <th scope="row">
        {trial.runId === undefined ? (
          trial.trial
        ) : (
          <a href={hrefOf("run", [trial.runId])} aria-label={`Run of trial ${trial.trial}`}>
            {trial.trial}
          </a>
        )}
        {isBest && <span class="muted"> best</span>}
      </th>
      <td>
        <TrialStateBadge state={trial.state} />
      </td>
      {varied.map((name) => (
        <td key={name} class="number">
          {settingText(trial.options[name], name)}
        </td>
      ))}
      {metrics.map((name) => (
        <td key={name} class="number">
          {formatNumber(metricOf(trial, { name }))}
        </td>
      ))}
      <td class="number">{formatBytes(trial.plannedPeakBytes)}</td>
      <td class="number">{formatBytes(trial.peakBytes)}</td>
      <td class="number">
        {formatCount(trial.step)}
        {trial.totalSteps !== null && <span class="muted"> / {formatCount(trial.totalSteps)}</span>}
      </td>
      <td class="note">{noteOf(trial)}</td>
    </tr>
  );
}

function noteOf({ error, waysOut = [] }: SweepTrial): string {
  return error ?? (waysOut.length > 0 ? `would fit with ${waysOut.join(", or ")}` : "");
}
