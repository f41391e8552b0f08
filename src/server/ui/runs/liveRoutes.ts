/** The stream of what is appended to runs, as Server-Sent Events. */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import type { Hono } from "hono";
import { type SSEStreamingApi, streamSSE } from "hono/streaming";
import type { KnownRun } from "../../../runs/knownRun.ts";
import { parseLines, readAppended } from "../../../runs/logTail.ts";
import { checkpointsIn, readEvents } from "../../../runs/runDetail.ts";
import type { RunStore } from "../../../runs/runStore.ts";
import { readSteps } from "../../../runs/stepColumns.ts";
import {
  ANSWERS_FILE,
  type AnswerRecord,
  EVALS_FILE,
  type EvalRecord,
  STEPS_FILE,
} from "../../../train/folder/runLog.ts";
import { HttpError } from "../../http/httpError.ts";
import type { LiveEvents, LiveRun } from "../api.ts";
import type { UiContext } from "../context.ts";
import { shownPictures } from "./answerPictures.ts";

/** Milliseconds between two looks at the logs of followed runs. */
const LOOK_MS = 200;
/** Milliseconds without an event after which a comment shows whether the client is still there. */
const KEEP_ALIVE_MS = 15_000;
/** The address of the request holds their cursors. */
const MOST_RUNS = 64;

/** Places in the list and in the logs of the followed runs. */
interface Following {
  /** Version of the list; undefined: the list is not followed. */
  list: number | undefined;
  runs: Map<string, FollowedRun>;
}

interface FollowedRun {
  steps: string;
  evals: string;
  answers: string;
  events: string;
  /** Revision of the summary that was sent last. */
  revision: number;
}

export function liveRoutes(app: Hono, { runs, signal }: UiContext): void {
  app.get("/api/live", (context) => {
    const place = context.req.header("last-event-id") || new URL(context.req.url).search;
    const following = followingOf(new URLSearchParams(place), runs);
    return streamSSE(context, async (stream) => {
      const stopped = new AbortController();
      const stop = (): void => stopped.abort();
      stream.onAbort(stop);
      signal.addEventListener("abort", stop);
      const unwatch = following.list === undefined ? undefined : runs.watch(() => {});
      try {
        await follow(stream, following, runs, stopped.signal);
      } finally {
        unwatch?.();
        signal.removeEventListener("abort", stop);
      }
    });
  });
}

function followingOf(query: URLSearchParams, store: RunStore): Following {
  const [mark, version] = (query.get("list") ?? "").split("_");
  const list = query.has("list") ? (mark === store.mark && Number(version)) || 0 : undefined;
  const places = (query.get("runs") ?? "").split(",").filter(Boolean);
  if (places.length > MOST_RUNS)
    throw new HttpError(400, `At most ${MOST_RUNS} runs can be followed at once (got ${places.length}).`);
  const runs = places.map((place): [string, FollowedRun] => {
    const [id = "", cursor = ""] = place.split(":");
    const [steps = "", evals = "", answers = "", events = ""] = cursor.split(".");
    return [id, { steps, evals, answers, events, revision: -1 }];
  });
  return { list, runs: new Map(runs) };
}

async function follow(
  stream: SSEStreamingApi,
  following: Following,
  store: RunStore,
  stopped: AbortSignal,
): Promise<void> {
  let sentAtMs = performance.now();
  const send = async <E extends keyof LiveEvents>(event: E, data: LiveEvents[E]): Promise<void> => {
    await stream.writeSSE({ event, data: JSON.stringify(data), id: placeOf(following, store) });
    sentAtMs = performance.now();
  };
  await stream.write("retry: 1000\n\n");
  await store.look();
  while (!stopped.aborted) {
    for (const [id, followed] of following.runs) {
      const run = store.run(id);
      const appended = run && (await appendedTo(run, followed, store));
      if (appended && !stopped.aborted) await send("run", appended);
    }
    if (following.list !== undefined && !stopped.aborted) {
      const { version, ...changes } = store.changesSince(following.list);
      const isNew = version > following.list;
      following.list = version;
      if (isNew) await send("list", changes);
    }
    if (performance.now() - sentAtMs > KEEP_ALIVE_MS) {
      await stream.write(": waiting\n\n");
      sentAtMs = performance.now();
    }
    await sleep(LOOK_MS, undefined, { signal: stopped }).catch(() => {});
  }
}

/** Returns the query that continues here; the browser sends it back when it connects again. */
function placeOf({ list, runs }: Following, { mark }: RunStore): string {
  const places = [...runs].map(([id, followed]) => `${id}:${cursorOf(followed)}`);
  return `${list === undefined ? "" : `list=${mark}_${list}&`}runs=${places.join()}`;
}

function cursorOf({ steps, evals, answers, events }: FollowedRun): string {
  return [steps, evals, answers, events].join(".");
}

/** Reads what has been appended to a run since; undefined if nothing has. */
async function appendedTo(
  run: KnownRun,
  followed: FollowedRun,
  store: RunStore,
): Promise<LiveRun | undefined> {
  run.update();
  const read = await readLogs(run, followed);
  if (read.isReset) {
    Object.assign(followed, { steps: "", evals: "", answers: "", events: "" });
    Object.assign(read, await readLogs(run, followed), { isReset: true });
  }
  const { steps, evals, answers, events, isReset } = read;
  const hasNew = isReset || steps.columns.step.length + evals.records.length + answers.records.length > 0;
  const isChanged = run.revision !== followed.revision;
  if (!hasNew && events.records.length === 0 && !isChanged) return undefined;
  Object.assign(followed, {
    steps: steps.next,
    evals: evals.next,
    answers: answers.next,
    events: events.next,
  });
  followed.revision = run.revision;
  const saved = events.records.some(
    ({ fact }) => fact === "checkpoint" || fact === "end" || fact === "start",
  );
  return {
    id: run.id,
    cursor: cursorOf(followed),
    ...(isReset && { reset: true }),
    ...(steps.columns.step.length > 0 && { steps: steps.columns }),
    ...(evals.records.length > 0 && { evals: evals.records }),
    ...(answers.records.length > 0 && { answers: answers.records }),
    ...(events.records.length > 0 && { events: events.records }),
    ...(isChanged && { summary: store.summaryOf(run) }),
    ...((saved || isReset) && { checkpoints: checkpointsIn(run.folder) }),
  };
}

async function readLogs({ folder }: KnownRun, followed: FollowedRun) {
  const steps = await readSteps(join(folder, STEPS_FILE), followed.steps);
  const evals = readRecords<EvalRecord>(join(folder, EVALS_FILE), followed.evals);
  const answers = readRecords<AnswerRecord>(join(folder, ANSWERS_FILE), followed.answers);
  const events = readEvents(folder, followed.events);
  return {
    ...{ steps, evals, events },
    answers: { ...answers, records: answers.records.map(shownPictures) },
    isReset: [steps, evals, answers, events].some(({ isReset }) => isReset),
  };
}

function readRecords<R>(path: string, cursor: string): { records: R[]; next: string; isReset: boolean } {
  const { bytes, next, isReset } = readAppended(path, cursor, Number.MAX_SAFE_INTEGER);
  return { records: parseLines<R>(bytes), next, isReset };
}
