/**
 * A process beside the server that answers questions which compute for long, each with a stream of replies.
 * It starts with the first question, and ends when nobody has asked for a while. If it crashes, its questions
 * fail, and the next one starts it again.
 */
import { type ChildProcess, fork } from "node:child_process";

/** Messages to the process. */
export type HelperMessage = { id: number; ask: unknown } | { id: number; cancel: true };
/** Messages from the process. `failed` is a defect; what a user can cause is a reply. */
export type HelperReply = { id: number; reply: unknown } | { id: number; done: true; failed?: string };

export interface Helper<Ask, Reply> {
  /** Asks, and gives each reply to `take`. Ends early, without an error, if the signal is aborted. */
  ask: (ask: Ask, take: (reply: Reply) => void, signal?: AbortSignal) => Promise<void>;
  /** Ends the process; its questions end too. */
  close: () => void;
}

const IDLE_MS = 10 * 60_000;

interface Waiting<Reply> {
  take: (reply: Reply) => void;
  end: (failed?: string) => void;
}

/** @param name names the process in errors: "the planner" */
export function openHelper<Ask, Reply>(url: URL, name: string): Helper<Ask, Reply> {
  const waiting = new Map<number, Waiting<Reply>>();
  let child: ChildProcess | undefined;
  let lastId = 0;
  let idle: NodeJS.Timeout | undefined;

  function start(): ChildProcess {
    const started = fork(url, {
      ...{ stdio: ["ignore", "ignore", "inherit", "ipc"], execArgv: [] },
      serialization: "advanced", // pictures are bytes
    });
    started.on("message", (message: HelperReply) => {
      const asked = waiting.get(message.id);
      if ("reply" in message) asked?.take(message.reply as Reply);
      else asked?.end(message.failed);
    });
    const gone = (why: string): void => {
      if (child !== started) return;
      child = undefined;
      for (const { end } of [...waiting.values()]) end(`${name} has ended: ${why}`);
    };
    started.on("error", ({ message }) => gone(message));
    started.on("exit", (code, signal) => gone(signal ?? `exit code ${code}`));
    return started;
  }

  function stop(): void {
    clearTimeout(idle);
    const ended = child;
    child = undefined;
    ended?.kill("SIGKILL"); // it holds nothing that could be lost
    for (const { end } of [...waiting.values()]) end();
  }

  return {
    ask(ask, take, signal) {
      clearTimeout(idle);
      const id = ++lastId;
      child ??= start();
      const { channel } = child;
      const send = (message: HelperMessage): void => void child?.send(message, () => {});
      return new Promise((resolve, reject) => {
        const cancel = (): void => {
          send({ id, cancel: true });
          end();
        };
        const end = (failed?: string): void => {
          signal?.removeEventListener("abort", cancel);
          waiting.delete(id);
          if (waiting.size === 0) {
            channel?.unref();
            child?.unref();
            idle = setTimeout(stop, IDLE_MS).unref();
          }
          if (failed === undefined) resolve();
          else reject(new Error(failed));
        };
        waiting.set(id, { take, end });
        channel?.ref();
        if (signal?.aborted) return cancel();
        signal?.addEventListener("abort", cancel);
        send({ id, ask });
      });
    },
    close: stop,
  };
}
