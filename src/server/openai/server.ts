/** The server of `lorafit serve`: OpenAI's routes behind the checks that all local servers share. */
import { Hono } from "hono";
import { type Access, guard } from "../http/access.ts";
import { safeHeaders } from "../http/headers.ts";
import { type Listening, listen } from "../http/listen.ts";
import { failed, noSuchRoute, type OpenAiOptions, openAiApp } from "./app.ts";

export interface ServerOptions extends OpenAiOptions {
  host: string;
  /** 0: a free one. */
  port: number;
  isLoopback: boolean;
  /** Key that requests must carry; undefined: none. */
  apiKey: string | undefined;
}

/** Listens, and answers requests until it is closed. Throws UserError if the system refuses the port. */
export function openAiServer(options: ServerOptions): Promise<Listening> {
  const { host, port, isLoopback, apiKey } = options;
  const access: Access = {
    token: apiKey,
    isLoopback,
    hosts: [host.toLowerCase()],
    cookie: undefined,
    askForToken: "Send the server's key as the client's API key: Authorization: Bearer KEY.",
  };
  const app = new Hono();
  app.use(safeHeaders);
  app.use(guard(() => access));
  app.route("/", openAiApp(options));
  app.notFound(noSuchRoute);
  app.onError(failed);
  return listen(app, { host, port });
}
