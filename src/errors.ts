/** Errors that a user can act on, and how they write counts and amounts of bytes. */
import { printableLines, printableMessage } from "./printable.ts";

/**
 * Says what went wrong, where, and what to do; printed without a stack. Anything else that is thrown is a
 * defect of ours. Names and values from files may be put in as they are: they are escaped and cut here. A
 * name that may be long is better cut by shownName.
 */
export class UserError extends Error {
  readonly fix: string | undefined;

  constructor(message: string, { fix, cause }: { fix?: string; cause?: unknown } = {}) {
    super(printableMessage(message), cause === undefined ? undefined : { cause });
    this.name = "UserError";
    this.fix = fix === undefined ? undefined : printableLines(fix);
  }
}

/**
 * Says that a command line, a configuration or a policy is wrong. Nothing was done, and the command ends with
 * exit code 2.
 */
export class UsageError extends UserError {}

/** Further errors are counted. */
const MOST_STATED = 12;
/** A longer fix, such as a list of all options, stands below all messages once. */
const MOST_INLINE_CHARACTERS = 100;

/** Returns one error that states all of several: "3 options are wrong:" and a line for each, with its fix. */
export function joinedErrors(errors: readonly [UserError, ...UserError[]], noun: string): UserError {
  if (errors.length === 1) return errors[0];
  const isInline = ({ fix }: UserError): boolean =>
    fix === undefined || (fix.length <= MOST_INLINE_CHARACTERS && !fix.includes("\n"));
  const stated = errors.slice(0, MOST_STATED);
  const lines = stated.map((error) =>
    [error.message, ...(isInline(error) ? [error.fix] : [])].filter(Boolean).join(" "),
  );
  if (errors.length > stated.length) lines.push(`and ${errors.length - stated.length} more`);
  const below = [...new Set(stated.filter((error) => !isInline(error)).map(({ fix }) => fix))].join("\n");
  return new UsageError(
    [`${errors.length} ${noun} are wrong:`, ...lines.map((line) => `  ${line}`)].join("\n"),
    {
      ...(below && { fix: below }),
    },
  );
}

/** Returns the message of anything thrown. */
export function messageOf(thrown: unknown): string {
  return thrown instanceof Error ? thrown.message : String(thrown);
}

/** Error codes of the file system in words. */
const FAULTS: Readonly<Record<string, string>> = {
  ENOENT: "there is no such file",
  EISDIR: "it is a folder",
  ENOTDIR: "a part of its path is a file, not a folder",
  EEXIST: "there is a file of this name",
  EACCES: "you have no permission",
  EPERM: "you have no permission",
};

/** Returns why a file could not be read or written. */
export function faultOf(cause: unknown): string {
  return FAULTS[(cause as NodeJS.ErrnoException | undefined)?.code ?? ""] ?? messageOf(cause);
}

/** Writes a count: "12,544". */
export function formatCount(count: number): string {
  return Math.round(count).toLocaleString("en-US");
}

/** Writes a count with its noun: "1 sample", "2,000 samples". */
export function plural(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

export const GIB = 2 ** 30;

const UNIT_BYTES = {
  B: 1,
  KIB: 2 ** 10,
  MIB: 2 ** 20,
  GIB,
  TIB: 2 ** 40,
  KB: 1e3,
  MB: 1e6,
  GB: 1e9,
  TB: 1e12,
} as const;

/** Writes bytes in binary units with at most one decimal: "24.3 GiB", "512 B". */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const power = Math.min(units.length - 1, bytes < 1 ? 0 : Math.floor(Math.log2(bytes) / 10));
  return `${(bytes / 2 ** (10 * power)).toFixed(power === 0 ? 0 : 1)} ${units[power]}`;
}

/**
 * Writes bytes for an option, "31.7GiB", "24GB": the shortest form that parseBytes reads as exactly these
 * bytes.
 */
export function writtenBytes(bytes: number): string {
  const units = ["GiB", "GB", "MiB", "MB", "KiB"] as const;
  const amounts = units.map((unit) => {
    const tenths = Math.round((10 * bytes) / UNIT_BYTES[unit.toUpperCase() as keyof typeof UNIT_BYTES]);
    return { tenths, text: `${tenths / 10}${unit}` };
  });
  return amounts.find(({ tenths, text }) => tenths >= 1 && parseBytes(text) === bytes)?.text ?? `${bytes}B`;
}

/** Reads an amount of bytes: "32GiB", "300 MiB", "8GB", "1048576". Throws UserError for anything else. */
export function parseBytes(text: string): number {
  const match = /^\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)\s*$/i.exec(text);
  const letters = (match?.[2] ?? "").toUpperCase();
  const unit = letters === "" ? "B" : letters.replace(/^([KMGT])I?$/, "$1IB"); // as Linux tools have it, K is KiB
  const bytes = match && Number(match[1]) * (UNIT_BYTES[unit as keyof typeof UNIT_BYTES] ?? Number.NaN);
  if (!bytes || !Number.isFinite(bytes)) {
    throw new UserError(`"${text}" is not an amount of memory.`, {
      fix: "Write it as 32GiB, 300MiB or 8GB.",
    });
  }
  return Math.round(bytes);
}
