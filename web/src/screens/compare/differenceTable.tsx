/** The settings in which compared runs differ, and their results. */
import type { RunSummary } from "../../../../src/server/ui/api.ts";
import { formatBytes, formatCount, formatDuration, formatNumber } from "../../lib/format.ts";
import { differingSettings, settingText } from "../../lib/settings.ts";
import type { Shown } from "./shown.ts";

interface Result {
  title: string;
  value(run: RunSummary): number | null | undefined;
  text(value: number | null | undefined): string;
  /** Which end is better; absent where neither is. */
  better?: "lower" | "higher";
}

const RESULTS: Result[] = [
  { title: "Best evaluation loss", value: (run) => run.bestEval?.loss, text: formatNumber, better: "lower" },
  { title: "Last loss", value: (run) => run.lastLoss, text: formatNumber, better: "lower" },
  { title: "Peak memory", value: (run) => run.peakBytes, text: formatBytes, better: "lower" },
  { title: "Planned peak", value: (run) => run.plannedPeakBytes, text: formatBytes, better: "lower" },
  { title: "Tokens per second", value: (run) => run.tokensPerSecond, text: formatCount, better: "higher" },
  { title: "Steps", value: (run) => run.step, text: formatCount },
  { title: "Tokens", value: (run) => run.tokens, text: formatCount },
  { title: "Time", value: (run) => run.elapsedMs, text: formatDuration },
  { title: "Memory step-downs", value: (run) => run.stepDowns, text: formatCount },
];

export function DifferenceTable({ shown }: { shown: readonly Shown[] }) {
  const runs = shown.map(({ history }) => history.summary);
  const settings = differingSettings(runs.map(({ options }) => options));
  return (
    <section class="panel" aria-labelledby="differences">
      <h2 id="differences">Settings that differ, and results</h2>
      {/* biome-ignore lint/a11y/noNoninteractiveTabindex: a wide table scrolls, also by keyboard. */}
      <section class="scroll-x" tabIndex={0} aria-label="Table of settings and results">
        <table class="differences">
          <thead>
            <tr>
              <td />
              {shown.map(({ history, label, tone }) => (
                <th key={history.summary.id} scope="col" class="number">
                  <span class={`swatch swatch-line tone-${tone}`} aria-hidden="true" />
                  {label}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {settings.map((name) => (
              <tr key={name}>
                <th scope="row" class="mono">
                  {name}
                </th>
                {runs.map((run) => (
                  <td key={run.id} class="number">
                    {settingText(run.options[name], name)}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
          <tbody>
            {RESULTS.map((result) => (
              <ResultRow key={result.title} result={result} runs={runs} />
            ))}
          </tbody>
        </table>
      </section>
      {settings.length === 0 && runs.length > 1 && <p class="muted">All their settings are the same.</p>}
    </section>
  );
}

function ResultRow({ result: { title, value, text, better }, runs }: { result: Result; runs: RunSummary[] }) {
  const values = runs.map(value);
  const known = values.filter((each): each is number => typeof each === "number");
  const isTold = better !== undefined && new Set(known).size > 1;
  const best = better === "higher" ? Math.max(...known) : Math.min(...known);
  return (
    <tr>
      <th scope="row">{title}</th>
      {values.map((each, index) => (
        <td key={runs[index]!.id} class="number">
          {isTold && each === best ? <strong title="the best of these">{text(each)}</strong> : text(each)}
        </td>
      ))}
    </tr>
  );
}
