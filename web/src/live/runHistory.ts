/** All that the page knows of one run: loaded once, then appended to as the run goes on. */
import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type {
  AnswerRecord,
  EvalRecord,
  LiveCursor,
  LiveRun,
  LogPage,
  RunDetail,
  RunEvent,
  RunSummary,
  StepColumns,
  StepPage,
} from "../../../src/server/ui/api.ts";
import { getJson } from "../api.ts";
import { appendSteps, MOST_POINTS, noSteps } from "../lib/steps.ts";
import { follow } from "./follow.ts";

export interface RunHistory {
  detail: RunDetail;
  summary: RunSummary;
  steps: StepColumns;
  evals: EvalRecord[];
  answers: AnswerRecord[];
  events: RunEvent[];
  cursor: LiveCursor;
  /** Grows when something has changed that is not in the logs: the detail is loaded again. */
  turn: number;
}

export interface FollowedRun {
  history: RunHistory | undefined;
  problem: unknown;
}

/** Loads a run when a component appears, and appends what it logs until the component goes. */
export function useRun(id: string): FollowedRun {
  const [followed, setFollowed] = useState<FollowedRun>({ history: undefined, problem: undefined });
  const cursor = useRef<LiveCursor | undefined>(undefined);
  const turn = followed.history?.turn ?? 0;
  const change = useCallback((apply: (history: RunHistory) => RunHistory) => {
    setFollowed(({ history }) => ({ history: history && apply(history), problem: undefined }));
  }, []);
  useEffect(() => {
    cursor.current = undefined;
    setFollowed({ history: undefined, problem: undefined });
    return follow(
      async (signal) => {
        if (cursor.current === undefined) {
          const history = await loadRun(id, signal);
          cursor.current = history.cursor;
          setFollowed({ history, problem: undefined });
        }
        return { runs: `${id}:${cursor.current}` };
      },
      {
        run: (live) => {
          if (live.id !== id) return;
          cursor.current = live.cursor;
          change((history) => withLive(history, live));
        },
      },
      (problem) => setFollowed(({ history }) => ({ history, problem })),
    );
  }, [id]);
  useEffect(() => {
    if (turn === 0) return;
    const abort = new AbortController();
    getJson<RunDetail>(`runs/${id}`, {}, abort.signal).then(
      (detail) => change((history) => ({ ...history, detail })),
      () => {}, // the next change asks again, and a lost server is told by follow()
    );
    return () => abort.abort();
  }, [id, turn]);
  return followed;
}

async function loadRun(id: string, signal: AbortSignal): Promise<RunHistory> {
  const [detail, steps, evals, answers, events] = await Promise.all([
    getJson<RunDetail>(`runs/${id}`, {}, signal),
    getJson<StepPage>(`runs/${id}/steps`, { points: MOST_POINTS }, signal),
    getJson<LogPage<EvalRecord>>(`runs/${id}/evals`, {}, signal),
    getJson<LogPage<AnswerRecord>>(`runs/${id}/answers`, {}, signal),
    getJson<LogPage<RunEvent>>(`runs/${id}/events`, {}, signal),
  ]);
  return {
    ...{ detail, summary: detail.summary, steps: steps.columns, turn: 0 },
    ...{ evals: evals.records, answers: answers.records, events: events.records },
    cursor: [steps, evals, answers, events].map(({ next }) => next).join("."),
  };
}

/** Returns the history after an event. A run that began anew loses what it had. */
export function withLive(history: RunHistory, live: LiveRun): RunHistory {
  const before = live.reset ? { ...history, steps: noSteps(), evals: [], answers: [], events: [] } : history;
  const { steps, evals, answers, events, summary = before.summary, cursor, checkpoints } = live;
  const isNews = evals !== undefined || checkpoints !== undefined || summary.state !== history.summary.state;
  return {
    ...before,
    ...{ summary, cursor },
    steps: steps ? appendSteps(before.steps, steps) : before.steps,
    evals: evals ? [...before.evals, ...evals] : before.evals,
    answers: answers ? [...before.answers, ...answers] : before.answers,
    events: events ? [...before.events, ...events] : before.events,
    detail: checkpoints ? { ...before.detail, checkpoints } : before.detail,
    turn: isNews || live.reset ? before.turn + 1 : before.turn,
  };
}
