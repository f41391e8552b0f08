/** Routes of the New run screen. */
import type { Hono } from "hono";
import { z } from "zod";
import { readBody } from "../../http/body.ts";
import { HttpError } from "../../http/httpError.ts";
import type { RouteModule, UiContext } from "../context.ts";
import {
  checkDraft,
  flagsOf,
  givenOptions,
  newOutput,
  outputOf,
  pathBelow,
  refuseWrong,
  runForm,
} from "./form.ts";
import { type Launched, launchRun, PROGRAM } from "./launch.ts";
import type { RunStarted } from "./newRunApi.ts";

const Draft = z.strictObject({
  options: z.record(z.string(), z.union([z.string(), z.boolean(), z.array(z.string())])),
});

/** Makes the routes; `program` starts lorafit. */
export function newRunRoutesOf(
  program: readonly string[],
): (app: Hono, context: Pick<UiContext, "folder" | "note">) => void {
  return (app, { folder, note }) => {
    const launched = new Map<string, Launched>();
    app.get("/api/newRun/form", (of) => of.json(runForm(folder)));
    app.post("/api/newRun/check", async (of) => of.json(checkDraft(await readBody(of, Draft), folder)));
    app.post("/api/newRun/start", async (of) => {
      const draft = await readBody(of, Draft);
      refuseWrong(checkDraft(draft, folder));
      const raw = givenOptions(draft);
      const output = newOutput(folder, outputOf(raw));
      const run = await launchRun(flagsOf({ ...raw, output }), { folder, output }, program);
      const path = pathBelow(folder, output);
      launched.set(path, run);
      note(`started a run in ${path} (process ${run.pid})`);
      return of.json({ path, pid: run.pid } satisfies RunStarted);
    });
    app.get("/api/newRun/started", (of) => {
      const run = launched.get(of.req.query("path") ?? "");
      if (!run) throw new HttpError(404, "This page's server has not started such a run.");
      return of.json(run.state());
    });
  };
}

export const newRunRoutes: RouteModule = newRunRoutesOf(PROGRAM);
