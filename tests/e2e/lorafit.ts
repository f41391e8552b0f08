/** Runs the built program as a user does. */
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

export const PROGRAM = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));

export interface Run {
  code: number | null;
  stdout: string;
  stderr: string;
}

export function lorafit(
  args: string[],
  options: { cwd?: string; input?: string; env?: NodeJS.ProcessEnv } = {},
): Run {
  const { status, stdout, stderr } = spawnSync(process.execPath, [PROGRAM, ...args], {
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
