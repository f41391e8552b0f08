/** `lorafit eval`: computes losses of samples, and with --answers lets the model answer and scores that. */
import { pictureName } from "../../data/pictures/source.ts";
import { describeSource } from "../../data/samples/badSamples.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { withDifferences } from "../../differences.ts";
import { formatCount, plural, UserError } from "../../errors.ts";
import { readySamples } from "../../train/data/dataset.ts";
import {
  type Answer,
  type Evaluator,
  sampleAnswers,
  sampleLosses,
  totalLoss,
} from "../../train/evaluate/evaluate.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { EXIT_INTERRUPTED, type Interruption, interruptible } from "../output/interruption.ts";
import { checkHooks, countProgress, noteRest, type Output } from "../output/output.ts";
import { inspectModel, type KnownModel, withModel } from "../session.ts";

interface Scores {
  exactMatch: number;
  /** Similarity of texts, 0 to 1; absent without a tokenizer. */
  anls?: number;
}

/** An answer as it is printed. */
type ShownAnswer = Scores & ({ question: string; expected: string; answer: string } | IdAnswer);

/** An answer without a tokenizer. */
interface IdAnswer {
  expectedIds: number[];
  ids: number[];
}

interface Row extends Partial<Scores> {
  index: number;
  loss: number;
  labelTokens: number;
  /** Files of its pictures, with --answers; pictures within the data are named. */
  images?: string[];
  answers?: ShownAnswer[];
}

export async function run(options: OptionsOf<"eval">, output: Output): Promise<void> {
  const known = await inspectModel(options.model);
  const ready = await readySamples(options.data, known, options, checkHooks(output));
  const { length } = ready.samples;
  const { rows, isStopped } = await interruptible(
    output,
    "stopping after this sample",
    (interruption) => evaluated(known, ready.samples, options, { output, interruption }),
    { saves: false },
  );
  const total = { loss: totalLoss(rows), ...meanScores(rows) };
  if (isStopped) {
    output.note(
      `stopped after ${formatCount(rows.length)} of ${plural(length, "sample")}. These:  ${describe(total)}`,
    );
    process.exitCode = EXIT_INTERRUPTED;
    return; // without a total, which scripts would take for that of all samples
  }
  output.record(total);
  output.answer(`${plural(rows.length, "sample")} in all  ${describe(total)}`);
  if (options.answers) noteRest(options, rows.length, output);
}

/** Evaluates the samples until the end or Ctrl-C, and shows each when it is done. */
function evaluated(
  known: KnownModel,
  samples: readonly PreparedSample[],
  options: OptionsOf<"eval">,
  { output, interruption: { signal, listen } }: { output: Output; interruption: Interruption },
): Promise<{ rows: Row[]; isStopped: boolean }> {
  return withModel(known, options, output, async (session) => {
    const done: Row[] = [];
    const progress = countProgress(output, "sample", samples.length);
    progress(0);
    listen();
    for await (const loss of sampleLosses(samples, session)) {
      const sample = samples[loss.index] as PreparedSample;
      if (!Number.isFinite(loss.loss)) throw notANumber(sample, loss.loss);
      const answers = options.answers ? await answersOf(sample, session) : undefined;
      const images = sample.images.map(({ path }) => pictureName(path));
      const row: Row = { ...loss, ...(answers && { ...meanScores(answers), images, answers }) };
      done.push(row);
      output.record(row);
      output.answer(`${describeSource(sample.source)}  ${describe(row)}, ${row.labelTokens} label tokens`);
      if (options.all || done.length <= options.show)
        for (const answer of answers ?? []) output.answer(comparison(answer, output));
      progress(done.length);
      if (signal.aborted) break;
    }
    return { rows: done, isStopped: done.length < samples.length };
  });
}

function notANumber({ source }: PreparedSample, loss: number): UserError {
  return new UserError(`${describeSource(source)}: the model's loss is ${loss}.`, {
    fix: "Check that the model is whole and that its training did not end in NaN; in fp16, try --dtype bf16.",
  });
}

async function answersOf(sample: PreparedSample, session: Evaluator): Promise<ShownAnswer[]> {
  const answers: ShownAnswer[] = [];
  for await (const answer of sampleAnswers([sample], session)) answers.push(shown(answer, sample, session));
  return answers;
}

function shown(
  { start, expectedIds, ids, exactMatch, text }: Answer,
  { inputIds }: PreparedSample,
  { tokenizer }: Evaluator,
): ShownAnswer {
  if (!text || !tokenizer) return { expectedIds, ids, exactMatch };
  const { expected, answer, anls } = text;
  return { question: tokenizer.dialogue.questionBefore(inputIds, start), expected, answer, exactMatch, anls };
}

/** Returns question, expected and given answer below each other, with marks on the differences. */
function comparison(shown: ShownAnswer, output: Output): string {
  const isText = "question" in shown;
  const question = isText ? [line("question", shown.question)] : [];
  const [expected, answer] = isText
    ? [shown.expected, shown.answer]
    : [shown.expectedIds.join(" "), shown.ids.join(" ")];
  if (shown.exactMatch === 1) return [...question, line("answer", `${answer}  (as expected)`)].join("\n");
  const [wanted] = withDifferences(expected, answer, (part) => output.mark("green", part));
  const [, given] = withDifferences(expected, answer, (part) => output.mark("red", part));
  return [...question, line("expected", wanted), line("answer", given || "(nothing)")].join("\n");
}

const TITLE_COLUMNS = 10;

function line(title: string, text: string): string {
  return `  ${title.padEnd(TITLE_COLUMNS)}${text.replaceAll("\n", `\n${" ".repeat(2 + TITLE_COLUMNS)}`)}`;
}

/** Returns mean scores, undefined if nothing has scores. */
function meanScores(scored: Partial<Scores>[]): Scores | undefined {
  const matches = scored.flatMap(({ exactMatch }) => exactMatch ?? []);
  const similarities = scored.flatMap(({ anls }) => anls ?? []);
  if (matches.length === 0) return undefined;
  return { exactMatch: mean(matches), ...(similarities.length > 0 && { anls: mean(similarities) }) };
}

function describe({ loss, exactMatch, anls }: { loss: number } & Partial<Scores>): string {
  const match = exactMatch === undefined ? "" : `, exact match ${exactMatch.toFixed(3)}`;
  return `loss ${loss.toFixed(4)}${match}${anls === undefined ? "" : `, ANLS ${anls.toFixed(3)}`}`;
}

function mean(values: number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}
