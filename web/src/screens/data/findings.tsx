/** Counts of a data set, and what `lorafit validate` would report. */
import type { Survey } from "../../../../src/server/ui/data/dataApi.ts";
import { formatCount } from "../../lib/format.ts";
import { quantile } from "./lengths.ts";

export function Counts({ survey, isDone }: { survey: Survey; isDone: boolean }) {
  const { records, total, usable, pictures, tokens, labelTokens, lengths, isCounted } = survey;
  const facts: [string, string][] = [
    ["Samples", isDone ? formatCount(records) : `${formatCount(records)} so far`],
    ...(isCounted
      ? ([
          ["Can be trained on", formatCount(usable)],
          ["Pictures", formatCount(pictures)],
          ["Tokens", formatCount(tokens)],
          ["Learned", formatCount(labelTokens)],
          ["Median length", formatCount(quantile(lengths, 0.5))],
          ["Longest", formatCount(lengths.at(-1)?.[0])],
        ] satisfies [string, string][])
      : []),
  ];
  return (
    <>
      {!isDone && (
        <progress
          class="data-progress"
          aria-label="Samples counted"
          {...(total && { value: records, max: total })}
        />
      )}
      <dl class="facts">
        {facts.map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
      </dl>
    </>
  );
}

/** Lists bad samples, notices and the longest samples. show: opens a sample in the list. */
export function Findings({
  survey,
  isDone,
  show,
}: {
  survey: Survey;
  isDone: boolean;
  show: (index: number) => void;
}) {
  const { bad, badCount, warnings, longest, isCounted } = survey;
  return (
    <div class="grid">
      <section class="panel">
        <h2>What validate finds</h2>
        {warnings.map((warning) => (
          <p class="data-warning" key={warning}>
            {warning}
          </p>
        ))}
        {badCount === 0 ? (
          <p>
            {isDone
              ? isCounted
                ? "Every sample can be used."
                : "Every record is a sample."
              : "Nothing so far."}
          </p>
        ) : (
          <>
            <p class="tone-bad">
              {formatCount(badCount)} {badCount === 1 ? "sample" : "samples"} can't be used.
            </p>
            <ol class="data-bad">
              {bad.map(({ index, error, fix }) => (
                <li key={index}>
                  <button type="button" class="data-go" onClick={() => show(index)}>
                    {formatCount(index)}
                  </button>
                  <span class="data-words">
                    {error}
                    <span class="muted"> {fix}</span>
                  </span>
                </li>
              ))}
            </ol>
            {badCount > bad.length && <p class="muted">and {formatCount(badCount - bad.length)} more</p>}
          </>
        )}
      </section>
      {longest.length > 0 && (
        <section class="panel">
          <h2>Longest samples</h2>
          <ol class="data-bad">
            {longest.slice(0, 10).map(({ index, tokens, title }) => (
              <li key={index}>
                <button type="button" class="data-go" onClick={() => show(index)}>
                  {formatCount(index)}
                </button>
                <span class="data-words">
                  {formatCount(tokens)} tokens <span class="muted">{title}</span>
                </span>
              </li>
            ))}
          </ol>
        </section>
      )}
    </div>
  );
}
