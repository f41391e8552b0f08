/** Starts a run and waits until the page can show it. */
import type { RunList } from "../../../../src/server/ui/api.ts";
import type { RunDraft, RunStarted, StartState } from "../../../../src/server/ui/newRun/newRunApi.ts";
import { ApiProblem, getJson, postJson } from "../../api.ts";

const LOOK_MS = 300;
const SHOWN_LINES = 12;

/** Returns the id of the run. Throws ApiProblem if it could not start, or ended before it began. */
export async function startRun(draft: RunDraft, signal: AbortSignal): Promise<string> {
  const { path } = await postJson<RunStarted>("newRun/start", draft, signal);
  for (;;) {
    const { runs } = await getJson<RunList>("runs", {}, signal);
    const run = runs.find((one) => one.path === path);
    if (run) return run.id;
    const { state, log } = await getJson<StartState>("newRun/started", { path }, signal);
    if (state === "ended") throw endedEarly(log);
    await new Promise((done) => setTimeout(done, LOOK_MS));
  }
}

function endedEarly(log: string): ApiProblem {
  const lines = log.trim().split("\n");
  const first = lines.findIndex((line) => line.startsWith("error:"));
  const [message = "", ...fix] = lines.slice(first < 0 ? -SHOWN_LINES : first).slice(0, SHOWN_LINES);
  return new ApiProblem(message || "The run ended before its first step.", { fix, status: 0 });
}
