/** Decodes and transforms pictures in worker threads, ahead of the step that needs them. */
import { availableParallelism } from "node:os";
import { setTimeout as sleep } from "node:timers/promises";
import { Worker } from "node:worker_threads";
import { messageOf, UserError } from "../../errors.ts";
import type { LoadedPicture } from "./form.ts";
import { pictureForm } from "./forms.ts";
import type { ImageReply, ImageSettings } from "./imageWorker.ts";

export interface ImagePool {
  /** Loads a picture. A picture that cannot be loaded rejects its own promise and no other. */
  load(path: string, limit: number): Promise<LoadedPicture>;
  /** Stops the workers. Pictures that are not loaded yet are rejected. */
  close(): Promise<void>;
}

/** Loads one picture at a time. */
interface Lane {
  load(path: string, limit: number): Promise<LoadedPicture>;
  close(): Promise<void>;
}

/** Milliseconds to wait for a worker to stop. A read that hangs on a disk cannot be cancelled. */
const MOST_CLOSE_MS = 2_000;

/** The step uses every core, so few workers beside it are enough to stay ahead. */
const DEFAULT_WORKERS = Math.max(1, Math.min(2, availableParallelism() - 1));

/**
 * Undefined when running from the sources, as in tests: Node 20 runs no TypeScript in a worker, so pictures
 * load in this thread.
 */
const WORKER_URL = import.meta.url.endsWith(".js") ? new URL("./imageWorker.js", import.meta.url) : undefined;

/**
 * Opens a pool. With 0 workers, pictures load in this thread. An idle pool does not keep the process alive.
 */
export function openImagePool({
  workers = DEFAULT_WORKERS,
  ...settings
}: ImageSettings & { workers?: number | undefined }): ImagePool {
  const lanes =
    WORKER_URL && workers > 0
      ? Array.from({ length: workers }, () => workerLane(WORKER_URL, settings))
      : [localLane(settings)];
  const idle = [...lanes];
  const waiting: { start(lane: Lane): Promise<void>; cancel(): void }[] = [];
  let closed = false;

  async function workOff(lane: Lane): Promise<void> {
    for (let next = waiting.shift(); next; next = waiting.shift()) await next.start(lane);
    idle.push(lane);
  }

  return {
    load(path, limit) {
      const loading = new Promise<LoadedPicture>((resolve, reject) => {
        const cancel = () => reject(closedError());
        if (closed) return cancel();
        waiting.push({ start: (lane) => lane.load(path, limit).then(resolve, reject), cancel });
      });
      loading.catch(() => {}); // nobody may wait any more for a picture that was asked for ahead
      const lane = idle.pop();
      if (lane) void workOff(lane);
      return loading;
    },
    async close() {
      closed = true;
      for (const { cancel } of waiting.splice(0)) cancel();
      await Promise.all(lanes.map((lane) => lane.close()));
    },
  };
}

function localLane({ rules, ...settings }: ImageSettings): Lane {
  const form = pictureForm(rules);
  return { load: (path, limit) => form.load(path, limit, settings), close: async () => {} };
}

/**
 * Makes a lane that starts its worker with the first picture, and again after a picture that crashed the
 * worker.
 */
function workerLane(url: URL, settings: ImageSettings): Lane {
  let worker: Worker | undefined;
  let pending:
    | { path: string; resolve(image: LoadedPicture): void; reject(error: unknown): void }
    | undefined;
  let closed = false;

  function fail(why: string, cause?: unknown): void {
    pending?.reject(closed ? closedError() : new Error(`${pending.path}: ${why}`, { cause }));
  }

  function startWorker(): Worker {
    const started = new Worker(url, { workerData: settings, execArgv: [] }); // --input-type is not for it
    started.on("message", (reply: ImageReply) => {
      started.unref();
      switch (reply.kind) {
        case "image":
          return pending?.resolve(reply.image);
        case "user error":
          return pending?.reject(new UserError(reply.message, reply.remedy));
        case "defect":
          return fail(messageOf(reply.error), reply.error);
      }
    });
    started.on("error", (error) => {
      worker = undefined;
      fail(`its worker thread ended: ${messageOf(error)}`, error);
    });
    started.on("exit", (code) => {
      if (worker !== started) return;
      worker = undefined;
      fail(`its worker thread ended with code ${code}`);
    });
    return started;
  }

  return {
    load(path, limit) {
      worker ??= startWorker();
      worker.ref();
      worker.postMessage({ path, limit });
      return new Promise((resolve, reject) => {
        pending = { path, resolve, reject };
      });
    },
    async close() {
      closed = true;
      worker?.removeAllListeners("message"); // an answer that comes now would unref it, and the process end while it waits here
      fail("");
      const patience = new AbortController();
      const enough = sleep(MOST_CLOSE_MS, undefined, { signal: patience.signal }).catch(() => {});
      await Promise.race([worker?.terminate(), enough]);
      patience.abort();
    },
  };
}

function closedError(): Error {
  return new Error("The image pool was closed before the picture was loaded.");
}
