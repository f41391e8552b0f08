/** Samples of a data set: what the model is given, what it learns, and the pictures with their tiles. */
import type { DataQuestion, PictureView, SampleView } from "../../../../src/server/ui/data/dataApi.ts";
import { apiUrl } from "../../api.ts";
import { formatCount } from "../../lib/format.ts";
import { Loading, Problem } from "../../parts/states.tsx";
import { useSamples } from "./useSurvey.ts";

/** Samples on one page of the list. */
export const PAGE_SAMPLES = 6;

interface SamplesProps {
  question: DataQuestion;
  /** Samples that have come already. */
  first: SampleView[] | undefined;
  from: number;
  /** Records so far. */
  total: number;
  move: (from: number) => void;
}

export function Samples({ question, first, from, total, move }: SamplesProps) {
  const ready = first?.slice(from, from + PAGE_SAMPLES) ?? [];
  const isReady = ready.length === PAGE_SAMPLES || (ready.length > 0 && total <= from + ready.length);
  const { samples, problem } = useSamples(isReady ? undefined : { ...question, from, count: PAGE_SAMPLES });
  const shown = isReady ? ready : samples;
  return (
    <section class="panel stack" aria-labelledby="samples-head">
      <div class="row">
        <h2 id="samples-head">Samples</h2>
        <ul class="data-key" aria-label="Colours">
          <li class="data-prompt">given to the model</li>
          <li class="data-picture">a picture's place</li>
          <li class="data-answer">learned</li>
        </ul>
        <Pager from={from} total={total} move={move} />
      </div>
      {problem ? (
        <Problem of={problem} />
      ) : shown ? (
        shown.map((sample) => <Sample key={sample.index} sample={sample} question={question} />)
      ) : (
        <Loading what="samples" />
      )}
    </section>
  );
}

function Pager({ from, total, move }: Pick<SamplesProps, "from" | "total" | "move">) {
  const last = Math.max(0, total - 1);
  return (
    <div class="row data-pager">
      <button type="button" disabled={from === 0} onClick={() => move(Math.max(0, from - PAGE_SAMPLES))}>
        Back
      </button>
      <label>
        From sample{" "}
        <input
          type="number"
          min={0}
          max={last}
          value={from}
          onChange={({ currentTarget }) => {
            const wanted = Number(currentTarget.value);
            if (Number.isInteger(wanted)) move(Math.max(0, Math.min(last, wanted)));
          }}
        />
      </label>
      <button type="button" disabled={from + PAGE_SAMPLES >= total} onClick={() => move(from + PAGE_SAMPLES)}>
        On
      </button>
    </div>
  );
}

function Sample({ sample, question }: { sample: SampleView; question: DataQuestion }) {
  const { title, spans, pictures, tokens, labelTokens, problem, isCut, index } = sample;
  return (
    <article class="data-sample">
      <header class="row">
        <h3>{title}</h3>
        {tokens !== undefined && (
          <span class="muted">
            {formatCount(tokens)} tokens, {formatCount(labelTokens)} learned
          </span>
        )}
      </header>
      {problem && (
        <div class="problem">
          <p>{problem.error}</p>
          <p>{problem.fix}</p>
        </div>
      )}
      <div class="data-body">
        {pictures.length > 0 && (
          <div class="data-pictures">
            {pictures.map((picture, place) => (
              <Picture key={place} picture={picture} src={pictureUrl(question, index, place)} />
            ))}
          </div>
        )}
        {spans.length > 0 && (
          // biome-ignore lint/a11y/noNoninteractiveTabindex: long texts scroll, also by keyboard.
          <section class="data-text" tabIndex={0} aria-label={`Text of ${title}`}>
            <pre>
              {spans.map(({ kind, text }, place) => (
                <span key={place} class={`data-${kind}`}>
                  {text}
                </span>
              ))}
              {isCut && <span class="muted">{"\n"}… the rest is not shown</span>}
            </pre>
          </section>
        )}
      </div>
    </article>
  );
}

function pictureUrl({ file, model, limits }: DataQuestion, index: number, picture: number): string {
  return apiUrl("data/picture", { file, model, ...limits, index, picture });
}

function Picture({ picture, src }: { picture: PictureView; src: string }) {
  const { name, isShown, size, tokens } = picture;
  const facts =
    size && `${formatCount(size.width)} x ${formatCount(size.height)}, ${formatCount(tokens)} tokens`;
  return (
    <figure>
      {isShown && (
        <a href={src} target="_blank" rel="noreferrer" aria-label={`Open ${name} in full size`}>
          <img src={src} loading="lazy" alt={`${name} with its tiles and the global view`} />
        </a>
      )}
      <figcaption class="muted">
        {name}
        {facts && `: ${facts}`}
        {!isShown && ": not below the page's folder, or not readable"}
      </figcaption>
    </figure>
  );
}
