/** Python's programs of the virtual environment that setup.sh makes, and servers that a test starts. */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { fileURLToPath } from "node:url";
import { afterAll } from "vitest";
import { PATIENCE_MS } from "./browser.ts";

/** Returns the path of a program in the virtual environment. */
export function inVenv(program: string): string {
  return fileURLToPath(new URL(`.venv/bin/${program}`, import.meta.url));
}

/** Runs a script and returns the JSON that it prints. */
export function pythonJson<T>(script: string, ...args: string[]): T {
  return JSON.parse(python(["-c", script, ...args])) as T;
}

/** Runs Python and returns what it prints. Throws with what it said if it fails. */
export function python(args: readonly string[]): string {
  const { status, stdout, stderr } = spawnSync(inVenv("python"), args, {
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  });
  if (status !== 0) throw new Error(`python ended with ${status}: ${stderr}`);
  return stdout;
}

export interface Ran {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Runs a program while the test's own servers answer. */
export async function ran(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<Ran> {
  const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ["ignore", "pipe", "pipe"] });
  const said = { stdout: "", stderr: "" };
  child.stdout.on("data", (text: Buffer) => {
    said.stdout += text.toString();
  });
  child.stderr.on("data", (text: Buffer) => {
    said.stderr += text.toString();
  });
  const [code] = await once(child, "close");
  return { code: code as number | null, ...said };
}

/** Starts a server, which is killed after the file's tests. Its children are in its process group. */
export function startServer(
  program: string,
  args: readonly string[],
  env: NodeJS.ProcessEnv = {},
): StartedServer {
  const child = spawn(program, args, {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
    detached: true,
  });
  servers.push(child);
  let told = "";
  for (const stream of [child.stdout, child.stderr])
    stream.on("data", (text: Buffer) => {
      told += text.toString();
    });
  const fails = (): string | undefined => (child.exitCode === null ? undefined : `it ended: ${told}`);
  return {
    child,
    told: () => told,
    until: (body) => until(body, fails, () => told),
    stop: () => stop(child),
  };
}

export interface StartedServer {
  child: ChildProcess;
  told(): string;
  /** Tries until the body returns something. Throws if the server ends first. */
  until<T>(body: () => Promise<T | undefined> | T | undefined): Promise<T>;
  stop(): Promise<void>;
}

async function until<T>(
  body: () => Promise<T | undefined> | T | undefined,
  fails: () => string | undefined,
  told: () => string,
): Promise<T> {
  const deadlineMs = Date.now() + PATIENCE_MS;
  for (;;) {
    const found = await body();
    if (found !== undefined) return found;
    const failure = fails() ?? (Date.now() > deadlineMs ? `nothing came: ${told()}` : undefined);
    if (failure !== undefined) throw new Error(failure);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

/** Returns a port that is free now, for a server that can't choose one itself. */
export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, "close");
  return port;
}

async function stop(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, "exit");
  process.kill(-child.pid!, "SIGKILL");
  await exit;
}

const servers: ChildProcess[] = [];

afterAll(async () => {
  await Promise.all(servers.map(stop));
});
