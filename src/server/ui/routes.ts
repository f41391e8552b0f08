/** Lists the modules that add the page's routes. Each has the routes of one concern, under /api/. */
import type { Hono } from "hono";
import type { RunStore } from "../../runs/runStore.ts";
import { dataRoutes } from "./data/dataRoutes.ts";
import { newRunRoutes } from "./newRun/newRunRoutes.ts";
import { planRoutes } from "./plan/planRoutes.ts";
import { liveRoutes } from "./runs/liveRoutes.ts";
import { pictureRoutes } from "./runs/pictureRoutes.ts";
import { runRoutes } from "./runs/runRoutes.ts";

/** The parts of the server that routes share. */
export interface UiContext {
  /** FOLDER of `lorafit ui`: absolute, without symbolic links. Nothing outside of it is listed. */
  folder: string;
  runs: RunStore;
  /** Aborted when the server stops: streams end, and processes that serve the page alone. */
  signal: AbortSignal;
  /** Prints a line on the server's terminal. */
  note(text: string): void;
}

export type RouteModule = (app: Hono, context: UiContext) => void;

export const ROUTES: readonly RouteModule[] = [
  ...[runRoutes, liveRoutes, pictureRoutes],
  ...[planRoutes, dataRoutes, newRunRoutes],
];
