/** `lorafit eval`: losses of samples on their answers, and on request the answers that the model gives itself. */
import { describeSource } from "../../data/badSamples.ts";
import type { PreparedSample } from "../../data/validate.ts";
import { plural } from "../../errors.ts";
import { readySamples } from "../../train/dataset.ts";
import { type Answer, type Evaluator, sampleAnswers, sampleLosses, totalLoss } from "../../train/evaluate.ts";
import type { OptionsOf } from "../options.ts";
import type { Output } from "../report.ts";
import { inspectModel, withModel } from "../session.ts";

interface Scores {
  exactMatch: number;
  /** Absent where the samples are ids and there is no tokenizer. */
  anls?: number;
}

interface Row extends Partial<Scores> {
  index: number;
  loss: number;
  labelTokens: number;
}

export async function run(options: OptionsOf<"eval">, output: Output): Promise<void> {
  const known = await inspectModel(options.model);
  const ready = await readySamples(options.data, known, options, (text) => output.note(text));
  const rows = await withModel(known, options, output, async (session) => {
    const done: Row[] = [];
    for await (const loss of sampleLosses(ready.samples, session)) {
      const sample = ready.samples[loss.index] as PreparedSample;
      const row = { ...loss, ...(options.answers && (await scoresOf(sample, session))) };
      done.push(row);
      output.record(row);
      output.answer(`${describeSource(sample.source)}  ${describe(row)}, ${row.labelTokens} label tokens`);
      output.live(`sample ${done.length} of ${ready.samples.length}`);
    }
    return done;
  });
  const total = { loss: totalLoss(rows), ...meanScores(rows) };
  output.record(total);
  output.answer(`${plural(rows.length, "sample")} in all  ${describe(total)}`);
}

/** Over all answers of a sample. */
async function scoresOf(sample: PreparedSample, session: Evaluator): Promise<Scores | undefined> {
  const answers: Answer[] = [];
  for await (const answer of sampleAnswers([sample], session)) answers.push(answer);
  return meanScores(
    answers.map(({ exactMatch, text }) => ({ exactMatch, ...(text && { anls: text.anls }) })),
  );
}

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
