/** Screen "New run": the options of `lorafit train` as a form, and a plan beside it. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type { RunList } from "../../../../src/server/ui/api.ts";
import type { DataFiles } from "../../../../src/server/ui/data/dataApi.ts";
import type { RunCheck, RunDraft, RunForm } from "../../../../src/server/ui/newRun/newRunApi.ts";
import type { PlanChoices } from "../../../../src/server/ui/plan/planApi.ts";
import { getJson, postJson } from "../../api.ts";
import { CopyBlock } from "../../parts/copy.tsx";
import { Loading, Problem } from "../../parts/states.tsx";
import { useLoaded } from "../../parts/useLoaded.ts";
import { hrefOf, navigate, route } from "../../router.ts";
import { PlanAnswer } from "../plan/answer.tsx";
import "../plan/plan.css";
import { usePlan } from "../plan/usePlan.ts";
import { draftOf, type Filled, freeOutput, planOptionsOf } from "./draft.ts";
import { Field } from "./field.tsx";
import "./newRun.css";
import { startRun } from "./start.ts";
import { useCheck } from "./useCheck.ts";

interface Known {
  form: RunForm;
  choices: PlanChoices;
  found: DataFiles;
  /** Paths of runs. */
  paths: string[];
}

export function NewRun() {
  const loaded = useLoaded(loadKnown, []);
  return (
    <>
      <div class="screen-head">
        <h1>New run</h1>
        <p class="muted">A run is a process of its own: closing this page stops nothing.</p>
      </div>
      {loaded.value ? (
        <Filling known={loaded.value} />
      ) : loaded.state === "failed" ? (
        <Problem of={loaded.problem} retry={loaded.reload} />
      ) : (
        <Loading what="the options" />
      )}
    </>
  );
}

async function loadKnown(signal: AbortSignal): Promise<Known> {
  const [form, choices, found, { runs }] = await Promise.all([
    getJson<RunForm>("newRun/form", {}, signal),
    getJson<PlanChoices>("plan/choices", {}, signal),
    getJson<DataFiles>("data/files", {}, signal),
    getJson<RunList>("runs", {}, signal),
  ]);
  return { form, choices, found, paths: runs.map(({ path }) => path) };
}

function Filling({ known }: { known: Known }) {
  const { form, choices, found } = known;
  const [filled, setFilled] = useState<Filled>(() => firstFilled(known));
  const [touched, setTouched] = useState<ReadonlySet<string> | "all">(new Set());
  const draft = useMemo(() => draftOf(form, filled), [form, filled]);
  const [check, setCheck] = useCheck(draft);
  const isWrong = check !== undefined && Object.keys(check.errors).length > 0;
  const planned = usePlan(planOptionsOf(form, filled, choices.here));
  const change = (key: string, value: string | boolean): void => {
    setFilled((before) => ({ ...before, [key]: value }));
    setTouched((before) => (before === "all" ? before : new Set(before).add(key)));
  };
  const { start, isBusy, problem, log } = useStart(draft, (found) => {
    setCheck(found);
    setTouched("all");
  });
  return (
    <form
      class="run-screen"
      noValidate
      onSubmit={(event) => {
        event.preventDefault();
        void start();
      }}
    >
      <div class="stack">
        {form.groups.map((group) => (
          <Group key={group.name} {...{ group, filled, touched, check, change }} models={found.models} />
        ))}
      </div>
      <div class="stack run-beside">
        <section class="panel stack" aria-label="Start">
          <div class="row">
            <button type="submit" class="primary" disabled={isBusy}>
              {isBusy ? "Starting…" : "Start"}
            </button>
            <span class="muted" role="status">
              {isBusy && (log || "The model is opened and the samples are checked.")}
            </span>
          </div>
          {problem !== undefined && <Problem of={problem} />}
          {check?.cautions.map((caution) => (
            <p class="tone-warn" key={caution}>
              {caution}
            </p>
          ))}
          {check && <CopyBlock text={check.command} label="Command" />}
          <p class="muted">
            Paths start from <code>{form.folder}</code>.
          </p>
        </section>
        {filled.model && !(planned.problem && isWrong) ? (
          <PlanAnswer planned={planned} withCommands={false} />
        ) : (
          <p class="muted">The plan appears here when the fields are right.</p>
        )}
      </div>
    </form>
  );
}

/** Groups that are open at first; the others have good defaults. */
const OPEN = ["Model", "Data"];

interface GroupProps {
  group: RunForm["groups"][number];
  filled: Filled;
  touched: ReadonlySet<string> | "all";
  check: RunCheck | undefined;
  models: readonly string[];
  change: (key: string, value: string | boolean) => void;
}

function Group({ group: { name, fields }, filled, touched, check, models, change }: GroupProps) {
  const problemOf = (key: string) => (touched === "all" || touched.has(key) ? check?.errors[key] : undefined);
  const given = fields.filter(({ key }) => filled[key] !== undefined && filled[key] !== "");
  const isWrong = fields.some(({ key }) => problemOf(key));
  const [isOpen, setOpen] = useState(OPEN.includes(name));
  return (
    <details
      class="panel run-group"
      open={isOpen || isWrong}
      onToggle={({ currentTarget }) => setOpen(currentTarget.open)}
    >
      <summary>
        <h2>{name}</h2>
        <span class="muted">{given.length === 0 ? "defaults" : given.map(({ key }) => key).join(", ")}</span>
      </summary>
      {fields.map((field) => (
        <Field
          key={field.key}
          field={field}
          value={filled[field.key]}
          problem={problemOf(field.key)}
          offers={field.key === "model" ? models : undefined}
          change={(value) => change(field.key, value)}
        />
      ))}
    </details>
  );
}

interface Starting {
  start: () => Promise<void>;
  isBusy: boolean;
  problem?: unknown;
  /** The last line that the run has printed. */
  log?: string;
}

/** Starts the run and goes to its screen. showErrors: gets the check if fields are wrong. */
function useStart(draft: RunDraft, showErrors: (check: RunCheck) => void): Starting {
  const [state, setState] = useState<Omit<Starting, "start">>({ isBusy: false });
  const leaving = useRef(new AbortController());
  useEffect(() => () => leaving.current.abort(), []);
  const tell = (log: string): void => setState({ isBusy: true, log });
  const start = async (): Promise<void> => {
    const { signal } = leaving.current;
    setState({ isBusy: true });
    try {
      const check = await postJson<RunCheck>("newRun/check", draft, signal);
      if (Object.keys(check.errors).length > 0) {
        showErrors(check);
        setState({ isBusy: false });
        setTimeout(() => document.querySelector<HTMLElement>("[aria-invalid=true]")?.focus());
      } else navigate(hrefOf("run", [await startRun(draft, signal, tell)]));
    } catch (problem) {
      if (!signal.aborted) setState({ isBusy: false, problem });
    }
  };
  return { start, ...state };
}

/** Returns the values that the page offers: a model, a data set below the folder, a free output folder. */
function firstFilled({ found, paths }: Known): Filled {
  const { query } = route.value;
  const lists = found.files.filter(({ path }) => path.endsWith(".txt"));
  const model = query.get("model") ?? found.models[0];
  const data = query.get("data") ?? (lists[0] ?? found.files[0])?.path;
  return {
    ...(model !== undefined && { model }),
    ...(data !== undefined && { data }),
    output: freeOutput(paths),
  };
}
