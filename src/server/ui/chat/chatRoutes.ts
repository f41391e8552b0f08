/** Routes of the Chat screen. */
import { existsSync } from "node:fs";
import { join, resolve } from "node:path";
import { z } from "zod";
import { UserError } from "../../../errors.ts";
import { readBody, readBytes } from "../../http/body.ts";
import { realPathBelow } from "../../http/paths.ts";
import type { RouteModule } from "../context.ts";
import { PROGRAM } from "../newRun/launch.ts";
import { openChatServer } from "./chatServer.ts";

/** Bytes of a question with its picture as a data URL. */
const MOST_QUESTION_BYTES = 64 * 2 ** 20;

const Start = z.strictObject({
  model: z.string().min(1),
  adapters: z.record(z.string().regex(/^[\w-]{1,40}$/), z.string().min(1)),
  memory: z.string().max(40),
});

export const chatRoutes: RouteModule = (app, { folder, signal }) => {
  const server = openChatServer(PROGRAM);
  signal.addEventListener("abort", () => server.stop());
  app.get("/api/chat/state", (of) => of.json(server.state()));
  app.post("/api/chat/start", async (of) => {
    const { model, adapters, memory } = await readBody(of, Start);
    for (const path of Object.values(adapters)) requireAdapter(folder, path);
    const named = resolve(folder, model);
    return of.json(server.start({ model: existsSync(named) ? named : model, adapters, memory }, folder));
  });
  app.post("/api/chat/stop", async (of) => {
    server.stop();
    return of.json(server.state());
  });
  app.post("/api/chat/completions", async (of) => {
    const body = await readBytes(of, MOST_QUESTION_BYTES);
    const answer = await server.complete(new Uint8Array(body), of.req.raw.signal);
    const type = answer.headers.get("content-type") ?? "application/json";
    return new Response(answer.body, {
      status: answer.status,
      headers: { "Content-Type": type, "Cache-Control": "no-store" },
    });
  });
};

function requireAdapter(folder: string, path: string): void {
  const real = realPathBelow(folder, path);
  if (real !== undefined && existsSync(join(real, "adapter_config.json"))) return;
  throw new UserError(`${path} is no adapter below ${folder}.`, {
    fix: "Choose the adapter of a run below the page's folder.",
  });
}
