/** Screen "Data": the samples of a data set as the model reads them, their lengths, and what is wrong. */
import { useEffect, useRef, useState } from "preact/hooks";
import type { DataFiles, DataQuestion } from "../../../../src/server/ui/data/dataApi.ts";
import { getJson } from "../../api.ts";
import { formatBytes } from "../../lib/format.ts";
import { limitsIn } from "../../lib/pictureLimits.ts";
import { Empty, Loading, Problem } from "../../parts/states.tsx";
import { useLoaded } from "../../parts/useLoaded.ts";
import { route, setQuery } from "../../router.ts";
import "./data.css";
import { Counts, Findings } from "./findings.tsx";
import { Histogram } from "./histogram.tsx";
import { Samples } from "./samples.tsx";
import { type PictureLimit, useSurvey } from "./useSurvey.ts";

/** Stands in the address for no model: an absent one is the first that was found. */
const NO_MODEL = "-";

const USUAL_MAX_LENGTH = 4096;

/** Pictures without a model, until the server says otherwise. */
const NO_PICTURES: PictureLimit = { option: "hd_num", value: 16, most: 256 };

export function Data() {
  const loaded = useLoaded((signal) => getJson<DataFiles>("data/files", {}, signal), []);
  return (
    <>
      <div class="screen-head">
        <h1>Data</h1>
        <p class="muted">Samples as the model reads them.</p>
      </div>
      {loaded.value ? (
        <DataSets found={loaded.value} />
      ) : loaded.state === "failed" ? (
        <Problem of={loaded.problem} retry={loaded.reload} />
      ) : (
        <Loading what="data sets" />
      )}
    </>
  );
}

function DataSets({ found }: { found: DataFiles }) {
  const { files, folder } = found;
  const { query } = route.value;
  const file = query.get("file") ?? files[0]?.path;
  const model = query.get("model") ?? found.models[0] ?? NO_MODEL;
  const limits = limitsIn(query, found.limits);
  const [pictures, setPictures] = useState(NO_PICTURES);
  if (file === undefined)
    return (
      <Empty>
        There are no data sets below <code>{folder}</code>: arrays in .json, records in .jsonl, or lists of
        them in .txt.
      </Empty>
    );
  const question: DataQuestion = { file, limits, ...(model !== NO_MODEL && { model }) };
  return (
    <div class="stack">
      <Choices found={found} question={question} pictures={pictures} />
      <Surveyed question={question} know={setPictures} key={JSON.stringify(question)} />
    </div>
  );
}

interface ChoicesProps {
  found: DataFiles;
  question: DataQuestion;
  pictures: PictureLimit;
}

function Choices({ found, question, pictures: { option, value, most } }: ChoicesProps) {
  const { files, models, isCut } = found;
  const noLimits = Object.fromEntries(found.limits.map((name) => [name, undefined]));
  const isListed = files.some(({ path }) => path === question.file);
  return (
    <form
      class="panel row data-choices"
      aria-label="What to show"
      onSubmit={(event) => event.preventDefault()}
    >
      <label>
        Data set{" "}
        <select
          value={question.file}
          onChange={({ currentTarget }) => setQuery({ file: currentTarget.value, from: undefined })}
        >
          {!isListed && <option value={question.file}>{question.file}</option>}
          {files.map(({ path, bytes, run }) => (
            <option key={path} value={path}>
              {path} ({formatBytes(bytes)}
              {run !== undefined && `, of run ${run}`})
            </option>
          ))}
        </select>
      </label>
      <label>
        Model{" "}
        <input
          list="data-models"
          value={question.model ?? ""}
          placeholder="folder; its tokenizer counts"
          onChange={({ currentTarget }) =>
            setQuery({ ...noLimits, model: currentTarget.value.trim() || NO_MODEL })
          }
        />
      </label>
      <datalist id="data-models">
        {models.map((name) => (
          <option key={name} value={name} />
        ))}
      </datalist>
      <label>
        {option}{" "}
        <input
          class="data-number"
          type="number"
          min={1}
          max={most}
          value={question.limits[option] ?? value}
          onChange={({ currentTarget }) => setQuery({ [option]: currentTarget.value })}
        />
      </label>
      {isCut && <span class="muted">Not all files are listed.</span>}
    </form>
  );
}

interface SurveyedProps {
  question: DataQuestion;
  know: (pictures: PictureLimit) => void;
}

function Surveyed({ question, know }: SurveyedProps) {
  const { survey, samples, pictures, isDone, problem } = useSurvey(question);
  useEffect(() => {
    if (pictures) know(pictures);
  }, [pictures]);
  const list = useRef<HTMLDivElement>(null);
  const { query } = route.value;
  const maxLength = wholeNumber(query.get("maxLength"), USUAL_MAX_LENGTH);
  const from = wholeNumber(query.get("from"), 0);
  const show = (index: number): void => {
    setQuery({ from: String(index) });
    list.current?.scrollIntoView();
  };
  if (problem) return <Problem of={problem} />;
  if (!survey) return <Loading what="the samples" />;
  return (
    <>
      <section class="panel stack" aria-busy={!isDone}>
        <Counts survey={survey} isDone={isDone} />
        {survey.lengths.length > 0 && (
          <Histogram
            lengths={survey.lengths}
            maxLength={maxLength}
            change={(value) => setQuery({ maxLength: String(value) })}
          />
        )}
        {!survey.isCounted && (
          <p>
            Samples of text have no lengths without a tokenizer: choose a model folder to count their tokens.
          </p>
        )}
      </section>
      <Findings survey={survey} isDone={isDone} show={show} />
      <div ref={list}>
        <Samples
          question={question}
          first={samples}
          from={from}
          total={survey.total ?? survey.records}
          move={(place) => setQuery({ from: String(place) })}
        />
      </div>
    </>
  );
}

function wholeNumber(text: string | null, otherwise: number): number {
  const value = Number(text);
  return text !== null && Number.isInteger(value) && value >= 0 ? value : otherwise;
}
