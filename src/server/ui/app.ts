/** The page's server: safety first, then the routes of the API, then the files of the built page. */
import { Hono } from "hono";
import { messageOf } from "../../errors.ts";
import { type Access, guard } from "../http/access.ts";
import { serveAssets } from "../http/assets.ts";
import { safeHeaders } from "../http/headers.ts";
import { errorAnswer, HttpError } from "../http/httpError.ts";
import type { RouteModule, UiContext } from "./context.ts";
import { ROUTES } from "./routes.ts";

export interface UiApp {
  app: Hono;
  /** Whether the built page was found. Without it the API alone is served. */
  hasPage: boolean;
}

/** Makes the server. access: a function, because the port belongs to it and is known last. */
export function uiApp(
  context: UiContext,
  access: () => Access,
  { page, routes = ROUTES }: { page: string; routes?: readonly RouteModule[] },
): UiApp {
  const app = new Hono();
  app.onError((thrown, of) => {
    return errorAnswer(thrown, of, (defect) => {
      context.note(`a request failed: ${of.req.method} ${of.req.path}: ${stackOf(defect)}`);
    });
  });
  app.use(safeHeaders);
  app.use(guard(access));
  for (const add of routes) add(app, context);
  const hasPage = serveAssets(app, page);
  app.notFound((of) => {
    const fix = hasPage ? undefined : "The page is not built: run `make build`, or npm run build:web.";
    const error = new HttpError(404, `There is nothing at ${of.req.path}.`, { ...(fix && { fix }) });
    return errorAnswer(error, of, () => {}) as Response;
  });
  return { app, hasPage };
}

function stackOf(thrown: unknown): string {
  return (thrown instanceof Error && thrown.stack) || messageOf(thrown);
}
