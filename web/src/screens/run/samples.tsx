/** The micro-batches that took longest, and the longest samples. */
import { formatCount, formatDuration } from "../../lib/format.ts";
import { sampleName } from "../../lib/sampleName.ts";
import type { RunHistory } from "../../live/runHistory.ts";

export function Samples({ history: { detail } }: { history: RunHistory }) {
  const { slowest, longest } = detail;
  if (slowest.length === 0 && longest.length === 0) return null;
  return (
    <section class="panel" aria-labelledby="samples">
      <h2 id="samples">Slowest and longest samples</h2>
      <table>
        <thead>
          <tr>
            <th scope="col">Slowest micro-batches</th>
            <th scope="col" class="number">
              Step
            </th>
            <th scope="col" class="number">
              Tokens
            </th>
            <th scope="col" class="number">
              Time
            </th>
          </tr>
        </thead>
        <tbody>
          {slowest.map(({ step, samples, tokens, elapsedMs }) => (
            <tr key={step}>
              <th scope="row">
                {samples.slice(0, 3).map(sampleName).join(", ")}
                {samples.length > 3 && ` and ${samples.length - 3} more`}
              </th>
              <td class="number">{formatCount(step)}</td>
              <td class="number">{formatCount(tokens)}</td>
              <td class="number">{formatDuration(elapsedMs)}</td>
            </tr>
          ))}
        </tbody>
        {longest.length > 0 && (
          <tbody>
            <tr>
              <th scope="col" class="muted">
                Longest samples
              </th>
              <td />
              <td />
              <td />
            </tr>
            {longest.map(({ sample, tokens }) => (
              <tr key={`${sample.file}:${sample.index}`}>
                <th scope="row">{sampleName(sample)}</th>
                <td />
                <td class="number">{formatCount(tokens)}</td>
                <td />
              </tr>
            ))}
          </tbody>
        )}
      </table>
    </section>
  );
}
