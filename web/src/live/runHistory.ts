/** All that the page knows of some runs: loaded once, then appended to as the runs go on. */
import { useEffect, useState } from "preact/hooks";
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
  return useRuns([id]).get(id) ?? { history: undefined, problem: undefined };
}

/** Loads several runs and follows them all in one connection. */
export function useRuns(ids: readonly string[]): ReadonlyMap<string, FollowedRun> {
  const [followed, setFollowed] = useState<ReadonlyMap<string, FollowedRun>>(new Map());
  useEffect(() => {
    setFollowed(new Map());
    return followRuns(ids, setFollowed);
  }, [ids.join()]);
  return followed;
}

/** Follows runs until the returned function is called; `show` gets what is known of them after each change. */
function followRuns(
  ids: readonly string[],
  show: (followed: ReadonlyMap<string, FollowedRun>) => void,
): () => void {
  const known = new Map<string, FollowedRun>();
  const put = (id: string, change: Partial<FollowedRun>): void => {
    known.set(id, { history: undefined, problem: undefined, ...known.get(id), ...change });
    show(new Map(known));
  };
  const load = async (id: string, signal: AbortSignal): Promise<void> => {
    if (known.get(id)?.history) return;
    try {
      put(id, { history: await loadRun(id, signal), problem: undefined });
    } catch (problem) {
      put(id, { problem });
    }
  };
  const place = async (signal: AbortSignal): Promise<{ runs: string }> => {
    await Promise.all(ids.map((id) => load(id, signal)));
    const loaded = [...known.values()].flatMap(({ history }) => history ?? []);
    if (loaded.length === 0) throw known.values().next().value?.problem;
    return { runs: loaded.map(({ summary, cursor }) => `${summary.id}:${cursor}`).join(",") };
  };
  return follow(place, {
    run: (live) => {
      const before = known.get(live.id)?.history;
      if (!before) return;
      const history = withLive(before, live);
      put(live.id, { history });
      if (history.turn !== before.turn)
        getJson<RunDetail>(`runs/${live.id}`).then(
          (detail) => put(live.id, { history: { ...known.get(live.id)!.history!, detail } }),
          () => {}, // the next change asks again
        );
    },
  });
}

async function loadRun(id: string, signal: AbortSignal): Promise<RunHistory> {
  const path = `runs/${encodeURIComponent(id)}`;
  const [detail, steps, evals, answers, events] = await Promise.all([
    getJson<RunDetail>(path, {}, signal),
    getJson<StepPage>(`${path}/steps`, { points: MOST_POINTS }, signal),
    getJson<LogPage<EvalRecord>>(`${path}/evals`, {}, signal),
    getJson<LogPage<AnswerRecord>>(`${path}/answers`, {}, signal),
    getJson<LogPage<RunEvent>>(`${path}/events`, {}, signal),
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
