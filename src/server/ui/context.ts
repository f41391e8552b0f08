/** Types that all modules of routes share. */
import type { Hono } from "hono";
import type { RunStore } from "../../runs/runStore.ts";

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
