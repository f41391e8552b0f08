/** `lorafit plan`: what fits, from the training step run without data. */
import { requireWritable, writeFileWhole } from "../../checkpoint/disk.ts";
import { formatBytes } from "../../errors.ts";
import { listDevices } from "../../plan/time/cards.ts";
import { commandLine } from "../../program.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import { type Output, table } from "../output/output.ts";
import { type Answer, answerOf, partsOf } from "../plan/answer.ts";
import { commonCards } from "../plan/commonCards.ts";
import { officialOf } from "../plan/compareOfficial.ts";
import { plannedAttention } from "../plan/explain.ts";
import { planHtml } from "../plan/html.ts";
import { planProgress } from "../plan/progress.ts";
import { isUnlimited, type Question, questionOf } from "../plan/question.ts";
import { misfitOf, planText, trainCommand } from "../plan/report.ts";

export async function run(options: OptionsOf<"plan">, output: Output): Promise<void> {
  if (options.list_gpus) return listGpus(output);
  const question = questionOf(options);
  const isPage = options.html !== undefined;
  if (options.html !== undefined) requireWritable(options.html);
  const isOpen = question.card !== undefined && isUnlimited(question) && !output.json;
  const common = isOpen ? (["common"] as const) : [];
  const tell = planProgress(output, [
    "policy",
    "official",
    ...common,
    "words",
    ...(isPage ? PAGE_STAGES : []),
  ]);
  tell("policy");
  const answer = answerOf(question);
  tell("official");
  if (options.compare === "official" || (question.card && (!output.json || isPage)))
    answer.official = officialOf(question, answer.plan);
  if (isOpen) answer.cards = commonCards(question, answer.plan, tell);
  tell("words");
  const words = output.json ? "" : planText(question, answer);
  if (options.html !== undefined) {
    writeFileWhole(options.html, planHtml(question, answer, tell));
    output.note(`wrote ${options.html}`);
  }
  output.record(recordOf(question, answer));
  output.answer(words);
}

const PAGE_STAGES = ["sizes", "ranks", "cards"] as const;

/** The answer for scripts. */
function recordOf(question: Question, { plan, solved, official }: Answer): Record<string, unknown> {
  const { run, policy, fits, stepMs } = plan;
  const { budgetBytes } = question.limits;
  return {
    fits,
    ...(solved !== undefined && { solved }),
    peakBytes: run.budgetedBytes,
    hostPeakBytes: run.host.peakBytes,
    hostMappedBytes: run.mappedBytes,
    budgetBytes: Number.isFinite(budgetBytes) ? budgetBytes : null,
    categories: partsOf({ run, card: question.card }),
    stepMs,
    ...(!question.card && {
      calibration: { doubtful: question.doubt !== undefined, reason: question.doubt ?? null },
    }),
    tokens: run.tokens,
    policy,
    ...(question.card && { attention: plannedAttention(question, plan) }),
    train: fits ? trainCommand(question, plan) : null,
    ...(!fits && { reason: misfitOf(question, plan) }),
    ...(official &&
      question.options.compare === "official" && {
        official: { peakBytes: official.budgetedBytes, fits: official.budgetedBytes <= budgetBytes },
      }),
  };
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
