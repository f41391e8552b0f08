/** Routes of runs and sweeps: the list, one run with its logs, and stopping it. */
import { join } from "node:path";
import type { Context, Hono } from "hono";
import type { KnownRun } from "../../../runs/knownRun.ts";
import { holderIn } from "../../../runs/lockIn.ts";
import { parseLines, readAppended } from "../../../runs/logTail.ts";
import { readEvents, runDetail } from "../../../runs/runDetail.ts";
import { readSteps, thinned } from "../../../runs/stepColumns.ts";
import {
  ANSWERS_FILE,
  type AnswerRecord,
  EVALS_FILE,
  type EvalRecord,
  STEPS_FILE,
} from "../../../train/folder/runLog.ts";
import { readJson } from "../../http/body.ts";
import { HttpError } from "../../http/httpError.ts";
import type { LogPage, RunEvent, RunList, StepPage, StopAnswer } from "../api.ts";
import type { UiContext } from "../context.ts";
import { shownPictures } from "./answerPictures.ts";
import { readMemory } from "./memory.ts";

export function runRoutes(app: Hono, { folder, runs }: UiContext): void {
  app.get("/api/runs", async (context) => {
    await runs.look();
    const { changed, version } = runs.changesSince(0);
    return context.json<RunList>({
      folder,
      runs: changed,
      sweeps: runs.sweepSummaries(),
      version: `${runs.mark}_${version}`,
    });
  });
  app.get("/api/runs/:id", async (context) => {
    const run = await runOf(runs, context);
    run.update();
    return context.json(runDetail(run, runs.summaryOf(run)));
  });
  app.get("/api/runs/:id/steps", async (context) => {
    const run = await runOf(runs, context);
    const { columns, next } = await readSteps(join(run.folder, STEPS_FILE), context.req.query("from"));
    const points = countOf(context, "points");
    const shown = points === undefined ? columns : thinned(columns, points);
    return context.json<StepPage>({ columns: shown, next, total: columns.step.length });
  });
  app.get("/api/runs/:id/evals", async (context) => {
    const run = await runOf(runs, context);
    return context.json(pageOf<EvalRecord>(run, EVALS_FILE, context));
  });
  app.get("/api/runs/:id/answers", async (context) => {
    const run = await runOf(runs, context);
    const { records, next } = pageOf<AnswerRecord>(run, ANSWERS_FILE, context);
    return context.json<LogPage<AnswerRecord>>({ records: records.map(shownPictures), next });
  });
  app.get("/api/runs/:id/events", async (context) => {
    const run = await runOf(runs, context);
    const { records, next } = readEvents(run.folder, context.req.query("from"));
    return context.json<LogPage<RunEvent>>({ records, next });
  });
  app.get("/api/runs/:id/memory", async (context) => {
    const run = await runOf(runs, context);
    return context.json(readMemory(run.folder));
  });
  app.post("/api/runs/:id/stop", async (context) => {
    const run = await runOf(runs, context);
    await readJson(context);
    return context.json<StopAnswer>({ stopping: stop(run) });
  });
  app.get("/api/sweeps/:id", async (context) => {
    await runs.look();
    const sweep = runs.sweep(context.req.param("id"));
    if (!sweep) throw new HttpError(404, `There is no sweep ${context.req.param("id")}.`);
    return context.json(sweep.detail((place) => runs.runIn(place)));
  });
}

/** Returns the run that a request names. Throws HttpError if there is none. */
export async function runOf(runs: UiContext["runs"], context: Context): Promise<KnownRun> {
  const id = context.req.param("id") ?? context.req.query("run") ?? "";
  if (!runs.run(id)) await runs.look(); // it may be new
  const run = runs.run(id);
  if (!run)
    throw new HttpError(404, `There is no run ${id}.`, { fix: "Its folder may have been moved or removed." });
  return run;
}

function pageOf<R>(run: KnownRun, file: string, context: Context): LogPage<R> {
  const read = readAppended(join(run.folder, file), context.req.query("from"), Number.MAX_SAFE_INTEGER);
  return { records: parseLines<R>(read.bytes), next: read.next };
}

function countOf(context: Context, name: string): number | undefined {
  const text = context.req.query(name);
  if (text === undefined) return undefined;
  if (/^[1-9]\d{0,6}$/.test(text)) return Number(text);
  throw new HttpError(400, `${name} takes a whole number, 1 or more (got "${text}").`);
}

/**
 * Sends the run's process what Ctrl-C sends. The lock must name a process that began when the lock says, so
 * that no other process of the same number is stopped.
 */
function stop({ folder }: KnownRun): boolean {
  const holder = holderIn(folder);
  if (!holder?.mayRun) return false;
  const { pid, host, isHere, isProven } = holder;
  if (!isHere || !isProven) {
    const where = isHere ? "" : ` on ${host}`;
    const reason = isHere
      ? `Nothing shows that process ${pid} is this run.`
      : `This run is a process of ${host}.`;
    throw new HttpError(409, reason, { fix: `If it is this run, stop it${where}: kill -INT ${pid}` });
  }
  try {
    process.kill(pid, "SIGINT");
    return true;
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "ESRCH") return false; // it has ended meanwhile
    const message = `Process ${pid} belongs to another user, so it cannot be stopped from here.`;
    throw new HttpError(409, message, { fix: `Its owner can stop it: kill -INT ${pid}`, cause });
  }
}
