/** `lorafit report`: writes a run as one page with charts. */
import { readFile } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { cannotRead } from "../../checkpoint/faults.ts";
import { requireWritable, writeFileWhole } from "../../checkpoint/files/disk.ts";
import { formatBytes, UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import type { Metrics } from "../../train/evaluate/scores.ts";
import { REPORT_FILE } from "../../train/folder/runLog.ts";
import { sendLeft } from "../../train/sinks/mlflow/mlflow.ts";
import { mlflowSettings } from "../../train/sinks/mlflow/settings.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import type { Output } from "../output/output.ts";
import { shownPictures } from "../output/shownPictures.ts";
import {
  type ComparedAnswer,
  comparedAnswers,
  type Evaluated,
  EvaluatedSample,
} from "../run/comparedAnswers.ts";
import { readRun } from "../run/readRun.ts";
import { runHtml, runSummary, type Scores } from "../run/runPage.ts";

/** For records that the server still lacks. */
const EXIT_LEFT = 1;

export async function run(options: OptionsOf<"report">, output: Output): Promise<void> {
  const folder = options.run;
  if (options.send) return sendToMlflow(folder, output);
  const recorded = await readRun(folder);
  const out = options.out ?? join(folder, REPORT_FILE);
  requireWritable(out);
  const evaluations = await Promise.all(options.evals.map(readEvaluation));
  const html = runHtml({
    folder,
    ...recorded,
    scores: evaluations.map(({ scores }) => scores),
    answers: await withPictures(comparedAnswers(evaluations), recorded.options),
    preview:
      options.preview === undefined
        ? undefined
        : { name: basename(options.preview), png: await readPng(options.preview) },
  });
  writeFileWhole(out, html);
  output.record({ report: out, ...runSummary(recorded.steps) });
  output.answer(`wrote ${out}`);
  if (!output.json) output.note("open it in a browser");
}

/** Sends the records that an MLflow server has missed. Ends with exit code 1 if some are left. */
async function sendToMlflow(folder: string, output: Output): Promise<void> {
  const settings = mlflowSettings();
  const sent = await sendLeft(folder, { settings, notice: (text) => output.note(text) });
  if (!sent) {
    throw new UserError(`${folder} holds no run that reports to MLflow.`, {
      fix: "Name the output folder of a lorafit train with --report-to mlflow.",
    });
  }
  output.record(sent);
  const { sentBytes, leftBytes } = sent;
  if (leftBytes > 0) process.exitCode = EXIT_LEFT;
  if (leftBytes > 0) output.answer(`${formatBytes(leftBytes)} of records are still not sent`);
  else if (sentBytes === 0) output.answer("MLflow has everything already");
  else output.answer(`sent ${formatBytes(sentBytes)} of records; MLflow has everything now`);
}

/** Pictures are decoded as the run decoded them. */
function withPictures(answers: ComparedAnswer[], { image_compat }: Record<string, unknown>) {
  const compat = image_compat === "official" ? "official" : "lorafit";
  return Promise.all(
    answers.map(async (answer) => ({ ...answer, pictures: await shownPictures(answer.images, compat) })),
  );
}

/**
 * Reads what `lorafit eval --json` printed: a line for each sample, and the scores of all in the last one.
 */
async function readEvaluation(path: string): Promise<Evaluated & { scores: Scores }> {
  const lines = (await readText(path)).trimEnd().split("\n").map(recordIn);
  const name = basename(path, extname(path));
  const { loss, exactMatch, anls, metrics, idleCard: _, ...others } = lines.at(-1) ?? {};
  if (typeof loss !== "number" || Object.keys(others).length > 0) {
    throw new UserError(`${path} is not the output of an evaluation: its last line has no total loss.`, {
      fix: `Write one with: ${commandLine("eval ... --json > FILE")}`,
    });
  }
  const isRecord = typeof metrics === "object" && metrics !== null;
  const named: Metrics = isRecord ? numbersOf(metrics as Record<string, unknown>) : {};
  const scores = { name, loss, ...numbersOf({ exactMatch, anls }), metrics: named };
  const samples = lines.flatMap((line) => EvaluatedSample.safeParse(line).data ?? []);
  return { name, samples, scores };
}

function recordIn(line: string): Record<string, unknown> {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {}; // such as a line that was cut off
  }
}

function numbersOf(values: Record<string, unknown>): Record<string, number> {
  const numbers = Object.entries(values).filter(
    (entry): entry is [string, number] => typeof entry[1] === "number",
  );
  return Object.fromEntries(numbers);
}

const PNG_START = Buffer.from("\x89PNG", "latin1");

async function readPng(path: string): Promise<Buffer> {
  const bytes = await readBytes(path);
  if (bytes.subarray(0, PNG_START.length).equals(PNG_START)) return bytes;
  throw new UserError(`${path} is not a PNG picture.`, {
    fix: `Draw one with: ${commandLine("preview --image FILE")}`,
  });
}

async function readText(path: string): Promise<string> {
  return (await readBytes(path)).toString("utf8");
}

async function readBytes(path: string): Promise<Buffer> {
  return readFile(path).catch((cause) => {
    throw cannotRead(path, cause);
  });
}
