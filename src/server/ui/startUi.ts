/** Starts and stops the page's server. */
import { hostname } from "node:os";
import { fileURLToPath } from "node:url";
import { RunStore } from "../../runs/runStore.ts";
import { isLoopbackHost, newToken } from "../http/access.ts";
import { listen } from "../http/listen.ts";
import { uiApp } from "./app.ts";
import type { RouteModule } from "./context.ts";
import { ROUTES } from "./routes.ts";

export interface UiOptions {
  /** Absolute, without symbolic links. */
  folder: string;
  host: string;
  /** 0: a free one. */
  port: number;
  /** Prints a line on the server's terminal. */
  note(text: string): void;
  /** Folder of the built page. */
  page?: string;
  routes?: readonly RouteModule[];
  /** Whether what was read of runs is kept in the user's cache folder for the next start. */
  keeps?: boolean;
}

export interface RunningUi {
  /** Address without the token. */
  url: string;
  token: string;
  /** Whether the built page was found. */
  hasPage: boolean;
  close(): Promise<void>;
}

/** Where the page is built to: dist/web. */
const PAGE = fileURLToPath(
  new URL(import.meta.url.endsWith(".js") ? "../../web" : "../../../dist/web", import.meta.url),
);

/** Starts the server, and begins to look for runs. Throws UserError if it can't listen. */
export async function startUi(options: UiOptions): Promise<RunningUi> {
  const { folder, host, port, note, page = PAGE, routes = ROUTES, keeps = true } = options;
  const token = newToken();
  const stopping = new AbortController();
  const runs = new RunStore(folder, { keeps });
  const isLoopback = isLoopbackHost(host);
  let taken = port;
  const { app, hasPage } = uiApp(
    { folder, runs, note, signal: stopping.signal },
    () => ({
      ...{ token, isLoopback, cookie: `lorafit_${taken}` },
      hosts: isLoopback ? [] : [host.toLowerCase(), hostname().toLowerCase()],
      askForToken: "Open the address that lorafit ui has printed: its end is the token.",
    }),
    { page, routes },
  );
  const listening = await listen(app, { host, port });
  taken = listening.port;
  runs.look().catch((thrown: unknown) => note(`the folder could not be read: ${String(thrown)}`));
  return {
    ...{ url: listening.url, token, hasPage },
    async close() {
      stopping.abort();
      await Promise.all([listening.close(), runs.close()]);
    },
  };
}
