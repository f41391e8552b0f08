/** Writes a log for each rank. What rank 0 prints is shown on the terminal too. */
import { closeSync, openSync, readFileSync, statSync, writeSync } from "node:fs";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { cannotWrite } from "../checkpoint/faults.ts";
import { makeFolder } from "../checkpoint/files/disk.ts";

const MOST_ERROR_LINES = 12;
/** Bytes at the end of a log in which an error is searched. */
const SEARCHED_BYTES = 64 * 1024;

export class RankLog {
  readonly path: string;
  /** Descriptor for the rank to inherit. */
  readonly fd: number;
  readonly #startBytes: number;

  /** Opens `rank-0.log` below the folder, to append to. Throws UserError if that fails. */
  constructor(folder: string, rank: number) {
    this.path = join(folder, `rank-${rank}.log`);
    try {
      makeFolder(folder);
      this.fd = openSync(this.path, "a");
    } catch (cause) {
      throw cannotWrite(this.path, cause);
    }
    this.#startBytes = statSync(this.path).size;
  }

  write(text: string): void {
    try {
      writeSync(this.fd, text);
    } catch {} // a full disk must not end the ranks; the run itself reports it
  }

  /** Returns the error that the rank has printed last since the log was opened; undefined without one. */
  lastError(): string | undefined {
    const text = readFileSync(this.path)
      .subarray(this.#startBytes)
      .subarray(-SEARCHED_BYTES)
      .toString("utf8");
    const at = text.lastIndexOf("error: ");
    if (at < 0 || !(at === 0 || text[at - 1] === "\n")) return undefined;
    const lines = text
      .slice(at + "error: ".length)
      .trimEnd()
      .split("\n");
    return lines.slice(0, MOST_ERROR_LINES).join("\n");
  }

  close(): void {
    closeSync(this.fd);
  }
}

/** Copies a rank's stderr to the terminal as it is, and to its log without the live line. */
export function show(stderr: Readable, terminal: { write(text: string): unknown }, log: RankLog): void {
  let rest = "";
  stderr.setEncoding("utf8").on("data", (text: string) => {
    terminal.write(text);
    const lines = withoutLive(rest + text).split("\n");
    rest = lines.pop() ?? "";
    if (lines.length > 0) log.write(`${lines.join("\n")}\n`);
  });
  stderr.on("end", () => log.write(rest));
}

const LIVE_LINE = new RegExp(`\\r[^\\n]*?${"\u001b"}\\[K`, "g");

/** Removes the live line: from its carriage return to the command that clears the rest of the line. */
export function withoutLive(text: string): string {
  return text.replaceAll(LIVE_LINE, "");
}
