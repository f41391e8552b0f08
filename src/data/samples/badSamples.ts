/** What is said of samples that can't be used: where each is, what is wrong with it, what mends it. */
import { formatCount, UserError } from "../../errors.ts";
import type { RecordFault } from "../records/recordFault.ts";
import type { SampleSource } from "./sample.ts";

export interface BadSample {
  source: SampleSource;
  /** A whole sentence, with file and index. */
  message: string;
  fix: string;
  /** Of a sample that is too long: the settings with either of which it would fit. */
  needs?: { maxLength: number; hdNum?: number };
}

const SHOWN_SAMPLES = 10;

/** "receipts.json: sample 118", "cases.jsonl:3: sample 2". */
export function describeSource({ file, index, line }: SampleSource): string {
  return `${file}${line === undefined ? "" : `:${line}`}: sample ${index}`;
}

/** An error about one sample; `clause` goes on after its name: "has 2 pictures but 1 place for them". */
export function sampleError(source: SampleSource, clause: string, fix: string): UserError {
  return new UserError(`${describeSource(source)} ${clause}.`, { fix });
}

/** An error about a sample's picture, of which `error` tells what is wrong. */
export function pictureError(source: SampleSource, error: UserError): UserError {
  return new UserError(`${describeSource(source)} shows a picture that can't be used. ${error.message}`, {
    fix: error.fix ?? "Replace the picture.",
    cause: error,
  });
}

/** A record that is no sample; no UserError is made of each, for a file may have a million. */
export function badRecord(source: SampleSource, { clause, fix }: RecordFault): BadSample {
  return { source, message: `${describeSource(source)} ${clause}.`, fix };
}

/** The bad sample that a UserError tells of; any other error is thrown on. */
export function badSample(source: SampleSource, error: unknown): BadSample {
  if (!(error instanceof UserError)) throw error;
  return { source, message: error.message, fix: error.fix ?? "Mend the record." };
}

/** One error for all of them: the first ten with what mends each, how many more there are, and what mends several. Some are to remain. */
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
    fix: ways.length > 0 ? ["Mend them, or do one of:", ...ways].join("\n  ") : "Mend them.",
  });
}

/** The settings that fit all of the samples that are too long, where there are several. */
function waysToFitAll(bad: readonly BadSample[]): string[] {
  const needs = bad.flatMap((sample) => sample.needs ?? []);
  if (needs.length < 2) return [];
  const hdNums = needs.flatMap(({ hdNum }) => hdNum ?? []);
  const fits = `(fits the ${formatCount(needs.length)} that are too long)`;
  const maxLength = needs.reduce((most, need) => Math.max(most, need.maxLength), 0);
  const hdNum = hdNums.reduce((least, one) => Math.min(least, one), Number.POSITIVE_INFINITY);
  const byLength = `--max-length ${maxLength}  ${fits}`;
  return hdNums.length < needs.length ? [byLength] : [byLength, `--hd-num ${hdNum}  ${fits}`];
}

function indent(text: string, spaces: number): string {
  return text.replace(/^/gm, " ".repeat(spaces));
}
