/** Answers to the fixed evaluation samples, at each evaluation, beside the picture and the expected answer. */
import { useMemo, useState } from "preact/hooks";
import type { AnswerRecord } from "../../../../src/server/ui/api.ts";
import { apiUrl } from "../../api.ts";
import { answerPieces, type MarkedAnswer } from "../../lib/answerPieces.ts";
import { formatCount, formatRatio } from "../../lib/format.ts";
import { sampleName } from "../../lib/sampleName.ts";
import type { RunHistory } from "../../live/runHistory.ts";

export function Answers({ history }: { history: RunHistory }) {
  const { answers, summary } = history;
  const samples = useMemo(() => bySample(answers), [answers]);
  const [at, setAt] = useState(0);
  const shown = samples[Math.min(at, samples.length - 1)];
  if (!shown) return null;
  const step = (by: number): void => setAt((before) => (before + by + samples.length) % samples.length);
  return (
    <section class="stack" aria-label="Answers">
      <div class="row">
        <h2>Answers</h2>
        <button type="button" onClick={() => step(-1)} aria-label="Sample before">
          ‹
        </button>
        <select
          aria-label="Sample"
          value={String(Math.min(at, samples.length - 1))}
          onChange={(event) => setAt(Number(event.currentTarget.value))}
        >
          {samples.map(({ key, records }, index) => (
            <option key={key} value={String(index)}>
              {sampleName(records[0]!.sample)}
              {records.at(-1)!.exactMatch === 1 ? " ✓" : ""}
            </option>
          ))}
        </select>
        <button type="button" onClick={() => step(1)} aria-label="Next sample">
          ›
        </button>
        <span class="muted">{solvedOf(samples)}</span>
      </div>
      <Sample key={shown.key} run={summary.id} records={shown.records} />
    </section>
  );
}

interface SampleAnswers {
  key: string;
  /** Ascending by step. */
  records: AnswerRecord[];
}

function bySample(answers: readonly AnswerRecord[]): SampleAnswers[] {
  const groups = new Map<string, AnswerRecord[]>();
  for (const record of answers) {
    const key = `${record.sample.file}:${record.sample.index}:${record.question ?? ""}`;
    const group = groups.get(key);
    if (group) group.push(record);
    else groups.set(key, [record]);
  }
  return [...groups].map(([key, records]) => ({ key, records }));
}

function solvedOf(samples: readonly SampleAnswers[]): string {
  const exact = samples.filter(({ records }) => records.at(-1)!.exactMatch === 1).length;
  return `${formatCount(exact)} of ${formatCount(samples.length)} are exactly as expected`;
}

function Sample({ run, records }: { run: string; records: readonly AnswerRecord[] }) {
  const latest = records.at(-1)!;
  const marked = records.map((record) => answerPieces(record)).reverse();
  return (
    <div class="answer-grid">
      <div class="stack">
        {latest.pictures.map((path) => (
          <Picture key={path} run={run} path={path} />
        ))}
      </div>
      <div class="panel answers">
        {latest.question !== undefined && (
          <>
            <h3>Question</h3>
            <p class="text">{latest.question}</p>
          </>
        )}
        <h3>Expected</h3>
        <p class="text">
          {latest.expected === undefined ? (
            <span class="muted">not known as text</span>
          ) : (
            <Pieces pieces={marked[0]!.expected} what="missing" />
          )}
        </p>
        <h3>Answers, the newest first</h3>
        <ol class="answer-list">
          {marked.map((answer, index) => (
            <Answer
              key={records.length - index}
              answer={answer}
              record={records[records.length - 1 - index]!}
            />
          ))}
        </ol>
      </div>
    </div>
  );
}

function Answer({ answer, record }: { answer: MarkedAnswer; record: AnswerRecord }) {
  return (
    <li>
      <span class="muted answer-step">
        step {formatCount(record.step)}
        {record.anls !== undefined && `, ANLS ${formatRatio(record.anls)}`}
        {record.exactMatch === 1 && <span class="tone-good"> exact</span>}
      </span>
      <p class="text">
        {record.isMissing ? (
          <span class="muted">no answer: it did not fit in memory</span>
        ) : (
          <Pieces pieces={answer.answer} what="wrong" />
        )}
      </p>
    </li>
  );
}

function Pieces({ pieces, what }: { pieces: MarkedAnswer["answer"]; what: "wrong" | "missing" }) {
  if (pieces.length === 0) return <span class="muted">(empty)</span>;
  return (
    <>
      {pieces.map(({ text, isCommon }, index) =>
        isCommon ? (
          text
        ) : (
          <mark key={index} class={`differs ${what}`}>
            {text}
          </mark>
        ),
      )}
    </>
  );
}

/** Shows a picture as the model sees it, or plain. */
function Picture({ run, path }: { run: string; path: string }) {
  const [view, setView] = useState<"tiles" | "plain">("tiles");
  const [isGone, setGone] = useState(false);
  const name = path.startsWith("data:") ? "a picture inside the data" : path.split("/").at(-1)!;
  if (isGone) return <p class="muted">{name} cannot be shown: it is gone, or lies outside the folder.</p>;
  return (
    <figure class="picture">
      <img
        src={apiUrl("picture", { run, path, view, width: 960 })}
        alt={view === "tiles" ? `${name} with its tiles and the global view` : name}
        onError={() => setGone(true)}
      />
      <figcaption class="row muted">
        <span class="mono">{name}</span>
        <label>
          <input
            type="checkbox"
            checked={view === "tiles"}
            onChange={(event) => setView(event.currentTarget.checked ? "tiles" : "plain")}
          />{" "}
          with its tiles
        </label>
      </figcaption>
    </figure>
  );
}
