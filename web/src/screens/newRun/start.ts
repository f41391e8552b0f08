/** Starts a run and waits until the page can show it. */
import type { RunList } from "../../../../src/server/ui/api.ts";
import type { RunDraft, RunStarted, StartState } from "../../../../src/server/ui/newRun/newRunApi.ts";
import { ApiProblem, getJson, postJson } from "../../api.ts";

const LOOK_MS = 300;
const SHOWN_LINES = 12;

/**
 * Returns the id of the run when its model is loaded. Throws ApiProblem if it could not start, or ended before.
 * tell: gets what the run has printed so far.
 */
export async function startRun(
  draft: RunDraft,
  signal: AbortSignal,
  tell: (log: string) => void,
): Promise<string> {
  const { path } = await postJson<RunStarted>("newRun/start", draft, signal);
  for (;;) {
    const { runs } = await getJson<RunList>("runs", {}, signal);
    const run = runs.find((one) => one.path === path);
    const isLoaded = run !== undefined && Object.keys(run.options).length > 0;
    if (isLoaded) return run.id;
    const { state, exitCode, log } = await getJson<StartState>("newRun/started", { path }, signal);
    if (state === "ended" && run && exitCode === 0) return run.id;
    if (state === "ended") throw endedEarly(log);
    tell(lastLine(log));
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function lastLine(log: string): string {
  return log.trim().split("\n").at(-1) ?? "";
}

function endedEarly(log: string): ApiProblem {
  const lines = log.trim().split("\n");
  const first = lines.findIndex((line) => line.startsWith("error:"));
  const [message = "", ...fix] = lines.slice(first < 0 ? -SHOWN_LINES : first).slice(0, SHOWN_LINES);
  return new ApiProblem(message || "The run ended before its first step.", { fix, status: 0 });
}
