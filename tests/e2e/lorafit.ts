/** Runs the built program as a user does. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

export const PROGRAM = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

export interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
}

interface RunOptions {
  cwd?: string;
  input?: string;
  env?: NodeJS.ProcessEnv;
}

export function lorafit(args: string[], options: RunOptions = {}): Run {
  return runProgram(PROGRAM, args, options);
}

/** Runs another copy of the program: the main file of its dist/. */
export function runProgram(program: string, args: string[], options: RunOptions = {}): Run {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], {
    encoding: "utf8",
    ...options,
    env: { ...process.env, ...options.env },
  });
  return { code: status, stdout, stderr };
}

/** Returns the JSON values that a successful run printed, one per line. */
export function records({ code, stdout, stderr }: Run): unknown[] {
  if (code !== 0) throw new Error(`lorafit ended with ${code}: ${stderr}`);
  return stdout
    .split("\n")
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}
