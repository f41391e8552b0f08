/** `lorafit eval`: computes losses of samples, and with --answers lets the model answer and scores that. */
import { pictureName } from "../../data/pictures/source.ts";
import { describeSource } from "../../data/samples/badSamples.ts";
import { splitSamples } from "../../data/samples/split.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { withDifferences } from "../../differences.ts";
import { formatCount, plural, UserError } from "../../errors.ts";
import { readySamples } from "../../train/data/dataset.ts";
import {
  type Answer,
  type Evaluator,
  namedMetrics,
  sampleAnswers,
  sampleLosses,
  totalLoss,
} from "../../train/evaluate/evaluate.ts";
import { metricsOf, type Scores } from "../../train/evaluate/scores.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { EXIT_INTERRUPTED, type Interruption, interruptible } from "../output/interruption.ts";
import { metricWords } from "../output/metricWords.ts";
import { checkHooks, countProgress, noteRest, type Output } from "../output/output.ts";
import { inspectModel, type KnownModel, withModel } from "../session.ts";

/** Metrics by name, two of them with fields of their own. */
type Named = ReturnType<typeof namedMetrics>;

/** An answer as it is printed. */
type ShownAnswer = Named & ({ question: string; expected: string; answer: string } | IdAnswer);

/** An answer without a tokenizer. */
interface IdAnswer {
  expectedIds: number[];
  ids: number[];
}

interface Row extends Partial<Named> {
  index: number;
  loss: number;
  labelTokens: number;
  /** Files of its pictures, with --answers; pictures within the data are named. */
  images?: string[];
  answers?: ShownAnswer[];
}

/** A sample that is done. */
interface Done {
  row: Row;
  scores: Scores[];
}

export async function run(options: OptionsOf<"eval">, output: Output): Promise<void> {
  const known = await inspectModel(options.model, options);
  const ready = await readySamples(options.data, known, options, checkHooks(output));
  const samples =
    options.val_size === undefined
      ? ready.samples
      : splitSamples(ready.samples, options.val_size, options.seed).validation;
  const { length } = samples;
  const { done, isStopped } = await interruptible(
    output,
    "stopping after this sample",
    (interruption) => evaluated(known, samples, options, { output, interruption }),
    { saves: false },
  );
  const rows = done.map(({ row }) => row);
  const total = { loss: totalLoss(rows), ...totalOf(done.flatMap(({ scores }) => scores)) };
  if (isStopped) {
    output.note(
      `stopped after ${formatCount(rows.length)} of ${plural(length, "sample")}. These:  ${describe(total, options)}`,
    );
    process.exitCode = EXIT_INTERRUPTED;
    return; // without a total, which scripts would take for that of all samples
  }
  output.record(total);
  output.answer(`${plural(rows.length, "sample")} in all  ${describe(total, options)}`);
  if (asksForAnswers(options)) noteRest(options, rows.length, output);
}

/** Evaluates the samples until the end or Ctrl-C, and shows each when it is done. */
function evaluated(
  known: KnownModel,
  samples: readonly PreparedSample[],
  options: OptionsOf<"eval">,
  { output, interruption: { signal, listen } }: { output: Output; interruption: Interruption },
): Promise<{ done: Done[]; isStopped: boolean }> {
  return withModel(known, options, output, async (session) => {
    const done: Done[] = [];
    const progress = countProgress(output, "sample", samples.length);
    progress(0);
    listen();
    for await (const loss of sampleLosses(samples, session)) {
      const sample = samples[loss.index] as PreparedSample;
      if (!Number.isFinite(loss.loss)) throw notANumber(sample, loss.loss);
      const answered = asksForAnswers(options) ? await answersOf(sample, session) : undefined;
      const answers = answered?.map((answer) => shown(answer, sample, session));
      const scores = answered?.map((answer) => answer.scores) ?? [];
      const images = sample.images.map(({ path }) => pictureName(path));
      const row: Row = { ...loss, ...totalOf(scores), ...(answers && { images, answers }) };
      done.push({ row, scores });
      output.record(row);
      output.answer(
        `${describeSource(sample.source)}  ${describe(row, options)}, ${row.labelTokens} label tokens`,
      );
      if (options.all || done.length <= options.show)
        for (const answer of answers ?? []) output.answer(comparison(answer, output));
      progress(done.length);
      if (signal.aborted) break;
    }
    return { done, isStopped: done.length < samples.length };
  });
}

function notANumber({ source }: PreparedSample, loss: number): UserError {
  return new UserError(`${describeSource(source)}: the model's loss is ${loss}.`, {
    fix: "Check that the model is whole and that its training did not end in NaN; in fp16, try --dtype bf16.",
  });
}

function asksForAnswers({ answers, metric }: OptionsOf<"eval">): boolean {
  return answers || metric !== undefined;
}

async function answersOf(sample: PreparedSample, session: Evaluator): Promise<Answer[]> {
  const answers: Answer[] = [];
  for await (const answer of sampleAnswers([sample], session)) answers.push(answer);
  return answers;
}

function shown(
  { start, expectedIds, ids, scores, text }: Answer,
  { inputIds }: PreparedSample,
  { tokenizer }: Evaluator,
): ShownAnswer {
  const named = namedMetrics(metricsOf([scores]));
  if (!text || !tokenizer) return { expectedIds, ids, ...named };
  return { question: tokenizer.dialogue.questionBefore(inputIds, start), ...text, ...named };
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

/** Returns the metrics over these answers; undefined without answers. */
function totalOf(scores: readonly Scores[]): Named | undefined {
  return scores.length === 0 ? undefined : namedMetrics(metricsOf(scores));
}

function describe(
  { loss, metrics = {} }: { loss: number } & Partial<Named>,
  { metric }: OptionsOf<"eval">,
): string {
  return `loss ${loss.toFixed(4)}${metricWords(metrics, metric)}`;
}
