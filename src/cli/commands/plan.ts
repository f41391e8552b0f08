/** `lorafit plan`: what fits, from the training step run without data. */

import type { Answer } from "../../answer/answer.ts";
import { answerOf, stagesOf, wantedBy } from "../../answer/answerOf.ts";
import { knownModels } from "../../answer/knownModels.ts";
import { type Question, questionOf } from "../../answer/question.ts";
import { servingAnswerOf } from "../../answer/serving.ts";
import { requireWritable, writeFileWhole } from "../../checkpoint/files/disk.ts";
import { formatBytes, formatCount } from "../../errors.ts";
import { leftOutWords, snapshotOf, VIEWER } from "../../plan/memory/snapshot.ts";
import { listDevices } from "../../plan/time/cards.ts";
import { commandLine } from "../../program.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { type Output, table } from "../output/output.ts";
import { planHtml } from "../plan/planPage.ts";
import { planText } from "../plan/planText.ts";
import { planProgress } from "../plan/progress.ts";
import { recordOf } from "../plan/record.ts";
import { servingText } from "../plan/servingText.ts";

/** For a plan that does not fit, so that scripts need not read it. */
const EXIT_DOES_NOT_FIT = 1;

export async function run(options: OptionsOf<"plan">, output: Output): Promise<void> {
  if (options.list_gpus) return listGpus(output);
  if (options.list_models) return listModels(output);
  if (options.serve) return planServe(options, output);
  const question = questionOf(options);
  for (const file of [options.html, options.snapshot]) if (file !== undefined) requireWritable(file);
  const wanted = wantedBy(question, output.json);
  const { tell, onDryRun } = planProgress(output, stagesOf(wanted));
  question.planner.watch(onDryRun);
  const answer = answerOf(question, wanted, tell);
  if (options.html !== undefined) {
    writeFileWhole(options.html, planHtml(answer));
    output.note(`wrote ${options.html}`);
  }
  if (options.snapshot !== undefined) writeSnapshot(options.snapshot, question, answer, output);
  output.record(recordOf(answer));
  output.answer(planText(answer));
  if (!answer.plan.fits) process.exitCode = EXIT_DOES_NOT_FIT;
}

/** Answers how many answers of which length a server has room for. */
function planServe(options: OptionsOf<"plan">, output: Output): void {
  const answer = servingAnswerOf(options);
  output.record({ serve: answer });
  output.answer(servingText(answer));
  if (!answer.fits) process.exitCode = EXIT_DOES_NOT_FIT;
}

/** Writes the allocations of the planned step. */
function writeSnapshot(file: string, { planner, limits }: Question, { plan }: Answer, output: Output): void {
  const trace = planner.trace(plan.workload, plan.policy, limits, { isLast: true, stacks: true });
  const { pickle, leftOut } = snapshotOf(trace);
  writeFileWhole(file, pickle);
  output.note(`wrote ${file}${leftOutWords(leftOut)}; open it at ${VIEWER}`);
}

function listModels(output: Output): void {
  const models = knownModels();
  for (const model of models) output.record(model);
  const rows = models.map(({ name, family, parameters, maxLength, pictures }) => [
    name,
    family,
    `${(parameters / 1e9).toFixed(1)} B`,
    formatCount(maxLength),
    `--${pictures.flag} ${pictures.limit}: up to ${formatCount(pictures.tokens)} tokens`,
  ]);
  output.answer(table([["name", "family", "parameters", "max_length", "a picture"], ...rows]));
  output.answer(`\nPlan for one:  ${commandLine("plan --model NAME --gpu rtx-4090")}`);
}

function listGpus(output: Output): void {
  const cards = listDevices();
  for (const card of cards) output.record(card);
  const rows = cards.map(
    ({ name, title, memoryBytes, memoryBytesPerSecond, peakFlopsPerSecond, link, note }) => [
      name,
      title,
      formatBytes(memoryBytes),
      `${Math.round(memoryBytesPerSecond / 1e9)} GB/s`,
      `${Math.round((peakFlopsPerSecond.bfloat16 ?? peakFlopsPerSecond.float16 ?? 0) / 1e12)} TFLOP/s`,
      link,
      note ? "with limits: its plan names them" : "",
    ],
  );
  output.answer(table([["name", "card", "memory", "bandwidth", "16 bit", "link", ""], ...rows]));
  output.answer(
    `\nMemory is what CUDA reports, a little less than the box says. Plan for one:  ${commandLine("plan --gpu rtx-4090")}`,
  );
}
