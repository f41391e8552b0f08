/** Reports samples that cannot be used: the place of each, its fault, and the fix. */
import { formatCount, UserError } from "../../errors.ts";
import type { RecordFault } from "../records/recordFault.ts";
import type { SampleSource } from "./sample.ts";

export interface BadSample {
  source: SampleSource;
  /** One sentence, with file and index. */
  message: string;
  fix: string;
  /** For a sample that is too long, two settings. It would fit with either. */
  needs?: { maxLength: number; limit?: { flag: string; value: number } };
}

const SHOWN_SAMPLES = 10;

/** Returns "receipts.json: sample 118" or "cases.jsonl:3: sample 2". */
export function describeSource({ file, index, line }: SampleSource): string {
  return `${file}${line === undefined ? "" : `:${line}`}: sample ${index}`;
}

/**
 * Returns an error about one sample. `clause` continues the sentence after its name: "has 2 pictures but 1
 * place for them".
 */
export function sampleError(source: SampleSource, clause: string, fix: string): UserError {
  return new UserError(`${describeSource(source)} ${clause}.`, { fix });
}

/** Returns an error about a sample's picture. `error` says what is wrong with the picture. */
export function pictureError(source: SampleSource, error: UserError): UserError {
  return new UserError(`${describeSource(source)} shows a picture that can't be used. ${error.message}`, {
    fix: error.fix ?? "Replace the picture.",
    cause: error,
  });
}

/** Returns the bad sample of a record. It is no UserError, because a file may have a million bad records. */
export function badRecord(source: SampleSource, { clause, fix }: RecordFault): BadSample {
  return { source, message: `${describeSource(source)} ${clause}.`, fix };
}

/** Returns the bad sample of a UserError. Throws any other error. */
export function badSample(source: SampleSource, error: unknown): BadSample {
  if (!(error instanceof UserError)) throw error;
  return { source, message: error.message, fix: error.fix ?? "Correct the record." };
}

/**
 * Returns one error for all bad samples: the first ten with their fixes, the number of others, and fixes for
 * several at once.
 */
export function badSamplesError(
  bad: readonly BadSample[],
  totalSamples: number,
  insteadOfSkipping?: string,
): UserError {
  const shown = bad
    .slice(0, SHOWN_SAMPLES)
    .flatMap(({ message, fix }) => [indent(message, 2), indent(fix, 4)]);
  if (bad.length > SHOWN_SAMPLES) shown.push(`  and ${formatCount(bad.length - SHOWN_SAMPLES)} more`);
  const count = `${formatCount(bad.length)} of ${formatCount(totalSamples)} samples`;
  const skip = insteadOfSkipping ?? `--skip-bad  (leaves out ${count})`;
  const ways = [...waysToFitAll(bad), ...(bad.length < totalSamples || insteadOfSkipping ? [skip] : [])];
  return new UserError(`${count} can't be used:\n${shown.join("\n")}`, {
    fix: ways.length > 0 ? ["Correct them, or pass one of:", ...ways].join("\n  ") : "Correct them.",
  });
}

/** Returns the settings that fit all samples that are too long, if there are several. */
function waysToFitAll(bad: readonly BadSample[]): string[] {
  const needs = bad.flatMap((sample) => sample.needs ?? []);
  if (needs.length < 2) return [];
  const limits = needs.flatMap(({ limit }) => limit ?? []);
  const fits = `(fits the ${formatCount(needs.length)} that are too long)`;
  const maxLength = needs.reduce((most, need) => Math.max(most, need.maxLength), 0);
  const byLength = `--max-length ${maxLength}  ${fits}`;
  if (limits.length < needs.length) return [byLength];
  const least = limits.reduce((best, limit) => (limit.value < best.value ? limit : best));
  return [byLength, `--${least.flag} ${least.value}  ${fits}`];
}

function indent(text: string, spaces: number): string {
  return text.replace(/^/gm, " ".repeat(spaces));
}
