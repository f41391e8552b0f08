/** Lists the modules that add the page's routes. Each has the routes of one concern, under /api/. */
import type { RouteModule } from "./context.ts";
import { dataRoutes } from "./data/dataRoutes.ts";
import { newRunRoutes } from "./newRun/newRunRoutes.ts";
import { planRoutes } from "./plan/planRoutes.ts";
import { liveRoutes } from "./runs/liveRoutes.ts";
import { pictureRoutes } from "./runs/pictureRoutes.ts";
import { runRoutes } from "./runs/runRoutes.ts";

export const ROUTES: readonly RouteModule[] = [
  ...[runRoutes, liveRoutes, pictureRoutes],
  ...[planRoutes, dataRoutes, newRunRoutes],
];
