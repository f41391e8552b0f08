/**
 * Lists the modules that add the page's routes. Each has the routes of one concern, under /api/. Modules
 * beyond the list of runs are loaded by their first request: the planner and the decoder of pictures take
 * time and memory that a look at runs does not need.
 */
import { Hono } from "hono";
import { HttpError } from "../http/httpError.ts";
import type { RouteModule } from "./context.ts";
import { liveRoutes } from "./runs/liveRoutes.ts";
import { runRoutes } from "./runs/runRoutes.ts";

export const ROUTES: readonly RouteModule[] = [
  ...[runRoutes, liveRoutes],
  later("/api/picture", async () => (await import("./runs/pictureRoutes.ts")).pictureRoutes),
  later("/api/plan/*", async () => (await import("./plan/planRoutes.ts")).planRoutes),
  later("/api/data/*", async () => (await import("./data/dataRoutes.ts")).dataRoutes),
  later("/api/chat/*", async () => (await import("./chat/chatRoutes.ts")).chatRoutes),
  later("/api/newRun/*", async () => (await import("./newRun/newRunRoutes.ts")).newRunRoutes),
];

/** Returns a module for all routes of a path, which is loaded by the first request. */
function later(path: string, load: () => Promise<RouteModule>): RouteModule {
  return (app, context) => {
    let loaded: Promise<Hono> | undefined;
    app.all(path, async (of) => {
      loaded ??= load().then((add) => {
        const routes = new Hono();
        routes.onError((thrown) => {
          throw thrown; // the server answers errors in one place
        });
        routes.notFound((missing) => {
          throw new HttpError(404, `There is nothing at ${missing.req.path}.`);
        });
        add(routes, context);
        return routes;
      });
      return (await loaded).fetch(of.req.raw, of.env);
    });
  };
}
