/** Starts `lorafit train` as a process of its own, and follows its first words. */
import { spawn } from "node:child_process";
import { closeSync, constants, fstatSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { makeFolder } from "../../../checkpoint/files/disk.ts";
import { faultOf, UserError } from "../../../errors.ts";
import { printable } from "../../../printable.ts";
import { realPathBelow } from "../../http/paths.ts";
import type { StartState } from "./newRunApi.ts";

/** File in the output folder with all that the process prints. */
export const TRAIN_LOG = "train.log";
const LOG_TAIL_BYTES = 8_192;

/** Command and first arguments that start lorafit. */
export const PROGRAM = [process.execPath, fileURLToPath(new URL("../../../cli/main.js", import.meta.url))];

export interface Launched {
  pid: number;
  /** Whether it has ended, and how. */
  state: () => StartState;
}

/**
 * Starts a run. The process leads a group of its own, so that Ctrl-C in the terminal of the page does not
 * reach it, and writes to a file, so that it needs nobody to read. Throws UserError if the folder cannot be
 * written.
 */
export function launchRun(
  flags: readonly string[],
  { folder, output }: { folder: string; output: string },
  [command, ...first]: readonly string[] = PROGRAM,
): Promise<Launched> {
  const log = openLog(folder, output);
  const file = log.path;
  try {
    const child = spawn(command!, [...first, "train", ...flags], {
      ...{ cwd: folder, detached: true, stdio: ["ignore", log.handle, log.handle] },
      env: { ...process.env, NO_COLOR: "1" },
    });
    let ended: { exitCode: number | null } | undefined;
    child.on("exit", (exitCode) => {
      ended = { exitCode };
    });
    child.unref();
    return new Promise((resolve, reject) => {
      child.on("error", (cause) =>
        reject(new UserError(`lorafit train cannot be started: ${faultOf(cause)}.`)),
      );
      child.on("spawn", () =>
        resolve({
          pid: child.pid!,
          state: () => ({ state: ended ? "ended" : "running", ...ended, log: tailOf(file) }),
        }),
      );
    });
  } finally {
    closeSync(log.handle);
  }
}

/** Makes the folder and its log. A link at the log's place, or a folder that leads elsewhere, is refused. */
function openLog(folder: string, output: string): { path: string; handle: number } {
  try {
    makeFolder(output);
    if (realPathBelow(folder, output) !== output) throw new UserError(`${output} leads out of ${folder}.`);
    const path = join(output, TRAIN_LOG);
    const { O_CREAT, O_WRONLY, O_TRUNC, O_NOFOLLOW } = constants;
    return { path, handle: openSync(path, O_CREAT | O_WRONLY | O_TRUNC | O_NOFOLLOW, 0o666) };
  } catch (cause) {
    if (cause instanceof UserError) throw cause;
    throw new UserError(`${output} cannot be written: ${faultOf(cause)}.`, {
      fix: "Name another output folder.",
      cause,
    });
  }
}

/** Returns the end of a log, from the start of a line. */
function tailOf(path: string): string {
  let handle: number;
  try {
    handle = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW);
  } catch {
    return "";
  }
  try {
    const { size } = fstatSync(handle);
    const from = Math.max(0, size - LOG_TAIL_BYTES);
    const bytes = Buffer.alloc(size - from);
    const text = bytes.toString("utf8", 0, readSync(handle, bytes, 0, bytes.length, from));
    return printable(from > 0 ? text.slice(text.indexOf("\n") + 1) : text);
  } finally {
    closeSync(handle);
  }
}
