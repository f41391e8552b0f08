/** Runs `lorafit serve` as a process of its own. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { PROGRAM } from "./lorafit.ts";

export interface Served {
  /** http://127.0.0.1:PORT */
  url: string;
  models: string[];
  /** Sends SIGTERM, and returns the exit code. */
  stop(): Promise<number | null>;
  /** Closes its stdin, as the end of the process that started it does, and returns the exit code. */
  abandon(): Promise<number | null>;
  stderr(): string;
}

/** Starts a server on a free port, and waits until it listens. Throws what it said if it ends before. */
export async function serve(flags: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Served> {
  const child = spawn(process.execPath, [PROGRAM, "serve", ...flags, "--port", "0", "--json"], {
    stdio: ["pipe", "pipe", "pipe"],
    env: { ...process.env, ...env },
  });
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr += text;
  });
  const exited = once(child, "exit").then(([code]) => code as number | null);
  process.once("exit", () => child.kill("SIGKILL"));
  const line = once(createInterface({ input: child.stdout }), "line").then(([text]) => text as string);
  const ended = exited.then((code) => Promise.reject(new Error(`serve ended with ${code}: ${stderr}`)));
  ended.catch(() => {}); // a rejection after the line is no news
  const { url, models } = JSON.parse(await Promise.race([line, ended])) as Served;
  const stop = (): Promise<number | null> => {
    child.kill("SIGTERM");
    return exited;
  };
  const abandon = (): Promise<number | null> => {
    child.stdin.end();
    return exited;
  };
  return { url, models, stop, abandon, stderr: () => stderr };
}
