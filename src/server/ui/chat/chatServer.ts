/** Runs `lorafit serve` beside the page, for its Chat screen. */
import { type ChildProcess, spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { createInterface } from "node:readline";
import { UserError } from "../../../errors.ts";
import { printable } from "../../../printable.ts";
import { parseLine } from "../../../runs/logTail.ts";
import type { ChatStart, ChatState } from "./chatApi.ts";

const MOST_LOG_CHARACTERS = 4_000;

export interface ChatServer {
  start: (asked: ChatStart, folder: string) => ChatState;
  state: () => ChatState;
  stop: () => void;
  /** Passes a request on, and returns the answer as it comes. Throws UserError if no server is ready. */
  complete: (body: Uint8Array<ArrayBuffer>, signal: AbortSignal) => Promise<Response>;
}

interface Serving {
  child: ChildProcess;
  key: string;
  log: string;
  hasEnded: boolean;
  ready?: { url: string; models: string[] };
}

/** program: command and first arguments that start lorafit. */
export function openChatServer([command, ...first]: readonly string[]): ChatServer {
  let serving: Serving | undefined;

  function state(): ChatState {
    if (!serving) return { state: "none" };
    const { ready, hasEnded, log } = serving;
    if (hasEnded) return { state: "ended", log };
    return ready ? { state: "ready", models: ready.models } : { state: "starting", log };
  }

  function stop(): void {
    serving?.child.kill("SIGTERM");
    serving = undefined;
  }

  return {
    state,
    stop,
    start({ model, adapters, memory }, folder) {
      stop();
      const named = Object.entries(adapters).map(([name, path]) => `--adapter=${name}=${path}`);
      const limit = memory === "" ? [] : [`--memory=${memory}`];
      const flags = [`--model=${model}`, ...named, ...limit, "--port=0", "--json"];
      const key = randomBytes(24).toString("base64url");
      const child = spawn(command!, [...first, "serve", ...flags], {
        ...{ cwd: folder, stdio: ["pipe", "pipe", "pipe"] }, // its stdin ends with this process, even if that is killed
        env: { ...process.env, LORAFIT_API_KEY: key, LORAFIT_STOP_WITH_STDIN: "1", NO_COLOR: "1" },
      });
      const started: Serving = { child, key, log: "", hasEnded: false };
      serving = started;
      follow(started);
      return state();
    },
    async complete(body, signal) {
      if (!serving?.ready || serving.hasEnded)
        throw new UserError("No model is being served.", { fix: "Choose a model, and start it." });
      const { ready, key } = serving;
      return fetch(`${ready.url}/v1/chat/completions`, {
        ...{ method: "POST", body, signal },
        headers: { "Content-Type": "application/json", Authorization: `Bearer ${key}` },
      });
    },
  };
}

/** Takes what the server prints: its address as JSON, and notices. */
function follow(serving: Serving): void {
  const { child } = serving;
  createInterface(child.stdout!).on("line", (line) => {
    const ready = parseLine<{ url: string; models: string[] }>(line);
    if (ready) serving.ready = ready;
  });
  child.stderr!.on("data", (text: Buffer) => {
    serving.log = printable(`${serving.log}${text}`.slice(-MOST_LOG_CHARACTERS));
  });
  child.on("error", ({ message }) => {
    serving.log += message;
    serving.hasEnded = true;
  });
  child.on("exit", () => {
    serving.hasEnded = true;
  });
}
