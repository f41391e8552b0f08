/**
 * `lorafit verify`: lets the model answer with the adapter applied, merged by lorafit and merged by PEFT, and
 * compares the answers.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { resolveModel } from "../../checkpoint/folder.ts";
import { mergeCheckpoint } from "../../checkpoint/merge.ts";
import { describeSource } from "../../data/samples/badSamples.ts";
import type { Sample } from "../../data/samples/sample.ts";
import { type Dataset, readDataset } from "../../data/samples/samples.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import { withDifferences } from "../../differences.ts";
import { plural, UserError } from "../../errors.ts";
import { checkSamples } from "../../train/data/dataset.ts";
import { answerPrompt } from "../answers.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { stoppable } from "../output/interruption.ts";
import { byteProgress, checkHooks, countProgress, type Output } from "../output/output.ts";
import { inspectModel, withModel } from "../session.ts";
import { type AnswerDifference, answerDifferences, type VerifiedAnswer } from "../verify/compareAnswers.ts";
import { mergeWithPeft, missingInPython, type PeftMerge } from "../verify/peft.ts";

type VerifyOptions = OptionsOf<"verify">;

/** Answers of one merged checkpoint beside those with the adapter applied. */
interface Comparison {
  by: "lorafit" | "peft";
  equal: number;
  differences: AnswerDifference[];
  /** PEFT's merge. */
  merge?: PeftMerge;
}

interface Verified {
  samples: PreparedSample[];
  comparisons: Comparison[];
  /** Why PEFT was left out. */
  withoutPeft?: string;
}

/** For answers that differ, so that scripts need not read the output. */
const EXIT_DIFFERS = 1;

export async function run(options: VerifyOptions, output: Output): Promise<void> {
  const work = mkdtempSync(join(options.work ?? tmpdir(), "lorafit-verify-"));
  try {
    const verified = await stoppable(output, (signal) => verify(options, work, output, signal));
    if (verified) show(verified, output);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
}

async function verify(
  options: VerifyOptions,
  work: string,
  output: Output,
  signal: AbortSignal,
): Promise<Verified> {
  const { adapter } = options;
  const samples = await samplesOf(options, output);
  const answers = (model: string, adapterFolder?: string): Promise<VerifiedAnswer[]> =>
    answersOf({ ...options, model, adapter: adapterFolder }, samples, output, signal);
  output.note("answers with the adapter applied");
  const applied = await answers(options.model, adapter);
  output.note("answers of the merged checkpoint");
  const merged = join(work, "merged");
  const model = resolveModel(options.model);
  await mergeCheckpoint(model, adapter, merged, { signal, onProgress: byteProgress(output) });
  const comparisons = [compared("lorafit", applied, await answers(merged))];
  const withoutPeft = await missingInPython(options.python);
  if (withoutPeft !== undefined) return { samples, comparisons, withoutPeft };
  output.note("answers of the checkpoint that PEFT has merged");
  const out = join(work, "peft");
  const merge = await mergeWithPeft(options.python, { model, adapter, merged, out }, signal);
  comparisons.push({ ...compared("peft", applied, await answers(out)), merge });
  return { samples, comparisons };
}

function compared(
  by: Comparison["by"],
  applied: readonly VerifiedAnswer[],
  others: readonly VerifiedAnswer[],
): Comparison {
  const differences = answerDifferences(applied, others);
  return { by, equal: applied.length - differences.length, differences };
}

/** Questions without a picture, if there is no --data. */
const QUESTIONS = ["What is 17 plus 25?", "Name three things that an invoice states.", "Write one sentence."];

async function samplesOf(options: VerifyOptions, output: Output): Promise<PreparedSample[]> {
  const known = await inspectModel(options.model, options);
  const dataset = options.data ? readDataset(options.data) : ownQuestions();
  const checked = await checkSamples(dataset, known, options, {
    purpose: "generate",
    ...checkHooks(output),
  });
  if (checked.samples.length === 0) throw new UserError("There is no sample to answer.");
  return checked.samples.slice(0, options.samples);
}

function ownQuestions(): Dataset {
  const samples = QUESTIONS.map((text, index): Sample => {
    const source = { file: "questions of lorafit", index };
    return { kind: "dialogue", source, turns: [{ role: "user", text }], images: [] };
  });
  return { files: [], samples, bad: [] };
}

/** Answers the samples greedily. Throws the signal's reason if it is given. */
async function answersOf(
  options: Omit<VerifyOptions, "adapter"> & { adapter: string | undefined },
  samples: readonly PreparedSample[],
  output: Output,
  signal: AbortSignal,
): Promise<VerifiedAnswer[]> {
  const known = await inspectModel(options.model, options);
  const greedy = { temperature: 0, top_p: 1, repetition_penalty: 1, seed: 0, ignore_eos: false };
  return withModel(known, options, output, async (session) => {
    const progress = countProgress(output, "answer", samples.length);
    const answers: VerifiedAnswer[] = [];
    for (const sample of samples) {
      const settings = { ...greedy, max_new_tokens: options.max_new_tokens };
      const { ids, text } = await answerPrompt(sample, session, settings, { signal });
      signal.throwIfAborted();
      answers.push({ ids, text });
      progress(answers.length);
    }
    return answers;
  });
}

function show({ samples, comparisons, withoutPeft }: Verified, output: Output): void {
  const { length } = samples;
  output.record({
    samples: length,
    comparisons: comparisons.map(({ merge, ...rest }) => ({ ...rest, ...merge })),
    ...(withoutPeft !== undefined && { withoutPeft }),
  });
  for (const comparison of comparisons) {
    output.answer(headline(comparison, length));
    for (const difference of comparison.differences) {
      const { source } = samples[difference.sample]!;
      output.answer(`  ${describeSource(source)} differs from token ${difference.token + 1} on`);
      output.answer(bothAnswers(difference, output));
    }
    if (comparison.merge) output.answer(`  ${weightsLine(comparison.merge)}`);
  }
  if (withoutPeft !== undefined) output.answer(`merged by PEFT: not compared, as ${withoutPeft}`);
  if (comparisons.some(({ differences }) => differences.length > 0)) process.exitCode = EXIT_DIFFERS;
}

function headline({ by, equal, merge }: Comparison, samples: number): string {
  const name = merge ? `PEFT ${merge.peft}` : by;
  return `merged by ${name}: ${equal} of ${plural(samples, "answer")} equal to the adapter applied`;
}

function bothAnswers({ applied, other }: AnswerDifference, output: Output): string {
  const words = ({ ids, text }: VerifiedAnswer): string => text ?? ids.join(" ");
  const mark = (part: string): string => output.mark("red", part);
  const [one, two] = withDifferences(words(applied), words(other), mark);
  return `    applied  ${one}\n    merged   ${two}`;
}

/** States how far apart the merged weights of PEFT and of lorafit are. */
function weightsLine({ linears }: PeftMerge): string {
  const apart = linears.filter(({ differing }) => differing > 0);
  if (apart.length === 0)
    return `weights of all ${plural(linears.length, "linear layer")} equal to lorafit's merge`;
  const worst = apart.reduce((one, other) => (other.largest > one.largest ? other : one));
  return (
    `weights of ${apart.length} of ${plural(linears.length, "linear layer")} differ from lorafit's merge, ` +
    `most in ${worst.linear}: by ${worst.largest.toPrecision(2)} (largest weight ${worst.largestWeight.toPrecision(2)})`
  );
}
