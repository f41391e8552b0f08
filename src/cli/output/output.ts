/**
 * Prints for commands: the answer on stdout, notes and progress on stderr. Colours and a live line need a
 * terminal.
 */
import { randomUUID } from "node:crypto";
import { styleText } from "node:util";
import { leftoversBeside } from "../../checkpoint/files/disk.ts";
import { formatBytes, formatCount, plural } from "../../errors.ts";
import { printable, printableLines } from "../../printable.ts";
import { commandLine, quoted } from "../../program.ts";

type Style = Parameters<typeof styleText>[0];

interface Sink {
  write(text: string): unknown;
  isTTY?: boolean;
  columns?: number;
}

export interface OutputOptions {
  json: boolean;
  stdout: Sink;
  stderr: Sink;
  environment: Record<string, string | undefined>;
  now?: () => number;
}

/** Milliseconds between two live lines in a pipe. */
const PLAIN_INTERVAL_MS = 10_000;

export class Output {
  /** Whether stdout gets JSON, one value a line, and no text for people. */
  readonly json: boolean;
  readonly #stdout: Sink;
  readonly #stderr: Sink;
  readonly #colour: boolean;
  readonly #now: () => number;
  /** Stands for the escape character of our own styles, so that no other one leaves. */
  readonly #escapeMark = `\x1b${randomUUID()}`;
  readonly #caveats: Record<string, string> = {};
  #liveShown = false;
  #plainAtMs = Number.NEGATIVE_INFINITY;

  constructor({ json, stdout, stderr, environment, now = () => performance.now() }: OutputOptions) {
    this.json = json;
    this.#stdout = stdout;
    this.#stderr = stderr;
    this.#colour = !environment.NO_COLOR && environment.TERM !== "dumb";
    this.#now = now;
  }

  /** Prints one or more lines for people; nothing with --json. */
  answer(text: string): void {
    if (this.json) return;
    this.endLive();
    this.#stdout.write(`${this.#safe(text)}\n`);
  }

  /** Prints a piece of an answer that comes bit by bit; nothing with --json. */
  piece(text: string): void {
    if (!this.json) this.#stdout.write(printable(text));
  }

  /** Prints one value for scripts; nothing without --json. */
  record(value: unknown): void {
    if (!this.json) return;
    this.endLive();
    const told = isPlain(value) ? { ...value, ...this.#caveats } : value;
    this.#stdout.write(`${printable(JSON.stringify(told))}\n`); // these escapes are JSON's too
  }

  /** Prints a line on stderr that stays. */
  note(text: string): void {
    this.endLive();
    this.#stderr.write(`${printableLines(text)}\n`);
  }

  /** Prints commands to continue with, by their purpose: on stderr; nothing with --json. */
  next(ways: Readonly<Record<string, string>>): void {
    if (this.json) return;
    for (const [purpose, words] of Object.entries(ways)) this.note(`${purpose}:  ${commandLine(words)}`);
  }

  /**
   * Prints a line on stderr, and adds it as a field to every later record: what the user should know about
   * all results.
   */
  caveat(text: string, field: string): void {
    if (this.#caveats[field] === text) return; // a command that loads two models prints it once
    this.#caveats[field] = text;
    this.note(text);
  }

  /** Columns that a live line may fill; no limit in a pipe. */
  get liveColumns(): number {
    return this.#stderr.isTTY ? (this.#stderr.columns || 80) - 1 : Number.POSITIVE_INFINITY; // some pseudo-terminals have 0
  }

  /** Prints a line on stderr that the next one replaces; in a pipe, one line every ten seconds. */
  live(line: string): void {
    if (this.flicker(line) || this.#now() - this.#plainAtMs < PLAIN_INTERVAL_MS) return;
    this.#plainAtMs = this.#now();
    this.#stderr.write(`${shownLine(line)}\n`);
  }

  /**
   * Prints a live line that changes many times a second; nothing in a pipe. Returns whether a person sees it.
   */
  flicker(line: string): boolean {
    if (!this.#stderr.isTTY) return false;
    this.#stderr.write(`\r${shownLine(line).slice(0, this.liveColumns)}\x1b[K`);
    this.#liveShown = true;
    return true;
  }

  /** Removes the live line. All other output removes it by itself. */
  endLive(): void {
    if (this.#liveShown) this.#stderr.write("\r\x1b[K");
    this.#liveShown = false;
  }

  /** Returns text of an answer, styled if stdout shows colours. */
  paint(style: Style, text: string): string {
    if (!(this.#colour && this.#stdout.isTTY)) return text;
    return styled(style, printable(text)).replaceAll("\x1b", this.#escapeMark);
  }

  /** Escapes everything except the styles that paint() put in. */
  #safe(text: string): string {
    return text.split(this.#escapeMark).map(printable).join("\x1b");
  }

  /** Returns text that stands out: styled if stdout shows colours, else in brackets. */
  mark(style: Style, text: string): string {
    const shown = this.paint(style, text);
    return shown === text ? `[${text}]` : shown;
  }
}

/** Returns a live line that stays a line, whatever is in it. */
function shownLine(line: string): string {
  return printable(line).replaceAll("\n", " ");
}

function isPlain(value: unknown): value is object {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** Styles a text without styleText's own check of the terminal. */
function styled(style: Style, text: string): string {
  return styleText(style, text, { validateStream: false });
}

/** Lines up the columns of rows: numbers to the right, texts to the left. */
export function table(rows: (string | number)[][]): string {
  const columns = Math.max(0, ...rows.map((row) => row.length));
  const widths = Array.from({ length: columns }, (_, column) =>
    Math.max(...rows.map((row) => String(row[column] ?? "").length)),
  );
  const cell = (value: string | number, column: number): string =>
    typeof value === "number" ? String(value).padStart(widths[column]!) : value.padEnd(widths[column]!);
  return rows.map((row) => row.map(cell).join("  ").trimEnd()).join("\n");
}

/** A part of a live line; parts of a higher rank go first if the terminal is narrow. */
interface RankedPart {
  rank: number;
  text: string;
}

/**
 * Returns the parts of the lowest ranks that fit together into the columns, in their own order. Empty parts
 * are left out.
 */
export function fitted(parts: readonly RankedPart[], columns: number): string {
  const shown = new Set<RankedPart>();
  let used = 0;
  for (const part of parts
    .filter(({ text }) => text !== "")
    .toSorted((one, other) => one.rank - other.rank)) {
    used += part.text.length + (shown.size > 0 ? 2 : 0);
    if (used > columns) break;
    shown.add(part);
  }
  return parts
    .filter((part) => shown.has(part))
    .map(({ text }) => text)
    .join("  ");
}

const BAR_EIGHTHS = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/** Draws a bar of at most `columns` characters, in eighths: "███▌". */
export function bar(share: number, columns: number): string {
  const eighths = Math.round(Math.min(1, Math.max(0, share)) * columns * 8);
  return "█".repeat(Math.floor(eighths / 8)) + BAR_EIGHTHS[eighths % 8];
}

const SPARKS = ["▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/**
 * Draws the last `columns` values as columns, scaled from the smallest to the largest. Values that are not
 * finite are left out.
 */
export function sparkline(values: number[], columns: number): string {
  const shown = values.filter(Number.isFinite).slice(-columns);
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  return shown
    .map((value) => SPARKS[high === low ? 0 : Math.round(((value - low) / (high - low)) * 7)])
    .join("");
}

/** Returns a duration: "8.6 s", "5 min 18 s", "2 h 5 min". */
export function formatDuration(ms: number): string {
  if (!Number.isFinite(ms)) return "…";
  const seconds = ms / 1000;
  if (seconds < 10) return `${seconds.toFixed(seconds < 1 ? 2 : 1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  const minutes = Math.round(whole / 60);
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

/** Estimates the time left from the share that is done. */
export class Pace {
  readonly #startMs: number;
  readonly #now: () => number;

  constructor(now: () => number = () => performance.now()) {
    this.#now = now;
    this.#startMs = now();
  }

  leftMs(share: number): number {
    return share > 0 ? ((this.#now() - this.#startMs) * (1 - share)) / share : Number.POSITIVE_INFINITY;
  }
}

/** Returns a function that shows progress: "sample 3 of 64, 12 s left". */
export function countProgress(output: Output, noun: string, total: number): (done: number) => void {
  const pace = new Pace();
  return (done) => {
    const left = done === 0 ? "" : `, ${formatDuration(pace.leftMs(done / total))} left`;
    output.live(`${noun} ${formatCount(done)} of ${formatCount(total)}${done < total ? left : ""}`);
  };
}

/** Milliseconds between two live lines about things that change faster. */
export const FLICKER_INTERVAL_MS = 200;

/** Returns a function that shows "checking sample 12 of 64" on a terminal. */
export function checkProgress(
  output: Output,
  now = () => performance.now(),
): (done: number, total: number) => void {
  let saidAtMs = now(); // shorter checks are not shown
  return (done, total) => {
    if (now() - saidAtMs < FLICKER_INTERVAL_MS) return;
    saidAtMs = now();
    output.flicker(`checking sample ${formatCount(done)} of ${formatCount(total)}`);
  };
}

/** Returns hooks that print what the check of samples finds. */
export function checkHooks(output: Output) {
  return { notice: (text: string) => output.note(text), onProgress: checkProgress(output) };
}

/** Prints how many samples were shown, if not all. */
export function noteRest({ show, all }: { show: number; all: boolean }, count: number, output: Output): void {
  if (output.json || all || count <= show) return;
  output.note(
    `shown in full: ${formatCount(show)} of ${plural(count, "sample")}; --show N or --all prints more`,
  );
}

/**
 * Prints what killed commands have left beside a path that is about to be written: hidden, and maybe as large
 * as a model.
 */
export function noteLeftovers(path: string, output: Output): void {
  for (const left of leftoversBeside(path))
    output.note(`a killed command has left ${left}. Remove it:  rm -r ${quoted(left)}`);
}

/** Returns a function that shows bytes done and the time left on the live line. */
export function byteProgress(output: Output): (at: { doneBytes: number; totalBytes: number }) => void {
  const pace = new Pace();
  return ({ doneBytes, totalBytes }) => {
    const share = doneBytes / totalBytes;
    const amount = `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`;
    output.live(`${bar(share, 20).padEnd(20)} ${amount}, ${formatDuration(pace.leftMs(share))} left`);
  };
}
