/**
 * Writes a run's numbers, options, answers and pictures as TensorBoard event files, in a folder of its own in
 * the output folder. A resumed run begins a new file, whose restart record drops the steps that come again.
 */
import { mkdirSync, readdirSync } from "node:fs";
import { appendFile } from "node:fs/promises";
import { hostname } from "node:os";
import { join } from "node:path";
import { stringify } from "yaml";
import { cannotWrite } from "../../../checkpoint/faults.ts";
import type { EvalFact, RunFact, RunSink, StartFact } from "../../facts/runFact.ts";
import { type AnswerRecord, TENSORBOARD_FOLDER } from "../../folder/runLog.ts";
import { logsOfEvaluation, logsOfStep, tagOf } from "../logs.ts";
import { type DrawnPicture, pictureDrawer } from "./drawnPictures.ts";
import {
  type EventTime,
  imageValue,
  restartRecord,
  scalarValue,
  summaryRecord,
  textValue,
  type Value,
  versionRecord,
} from "./events.ts";

/** Answers that are shown of each evaluation, and those of them whose picture is shown. */
const MOST_ANSWERS = 16;
const MOST_PICTURES = 4;

/** Makes the sink of an output folder. Its file begins with the first step. */
export function tensorBoardSink(output: string): RunSink {
  let file: EventFile | undefined;
  let options: StartFact["options"] | undefined;
  let hasPictures = false;
  return {
    async take(fact: RunFact) {
      if (fact.fact === "start") {
        ({ options } = fact);
        file = await EventFile.begin(join(output, TENSORBOARD_FOLDER), { atMs: fact.atMs, step: fact.step });
        const text = `\`\`\`yaml\n${stringify(options)}\`\`\``;
        const step = fact.step === 0 ? 0 : fact.step + 1; // a restart drops it
        await file.add({ atMs: fact.atMs, step }, [textValue("options", text)]);
      } else if (fact.fact === "step") {
        await file?.add({ atMs: fact.atMs, step: fact.record.step }, scalars(logsOfStep(fact.record)));
      } else if (fact.fact === "eval") {
        const time = { atMs: fact.atMs, step: fact.record.step };
        await file?.add(time, [...scalars(logsOfEvaluation(fact.record)), ...texts(fact)]);
        if (!hasPictures) await file?.add(time, await pictures(fact.answers, options!));
        hasPictures = true;
      }
    },
  };
}

function scalars(logs: Record<string, number>): Value[] {
  return Object.entries(logs).map(([name, value]) => scalarValue(tagOf(name), value));
}

function texts({ answers }: EvalFact): Value[] {
  if (answers.length === 0) return [];
  const rows = answers.slice(0, MOST_ANSWERS).map((record, at) => {
    const { question = "", expected = "", answer, isMissing } = record;
    const given = isMissing ? "(did not fit in memory)" : (answer ?? "");
    const match = record.exactMatch === 1 ? "yes" : "no";
    return `| ${[String(at), question, expected, given, match].map(cell).join(" | ")} |`;
  });
  const head = "| sample | question | expected | answer | exact |\n| --- | --- | --- | --- | --- |";
  return [textValue("eval/answers", `${head}\n${rows.join("\n")}`)];
}

/** Writes a text into a cell of a Markdown table, so that it is shown as it is. */
function cell(text: string): string {
  return text
    .replace(/[&<>|\\`*_[\]#]/g, (character) => `&#${character.charCodeAt(0)};`)
    .replace(/\s*\n\s*/g, " ");
}

/** Draws the pictures of the first samples with their tiles. */
async function pictures(answers: readonly AnswerRecord[], options: StartFact["options"]): Promise<Value[]> {
  const shown = answers
    .slice(0, MOST_ANSWERS)
    .flatMap((record, at) => record.pictures.slice(0, 1).map((path) => ({ path, tag: `eval/sample ${at}` })));
  if (shown.length === 0) return [];
  const draw = pictureDrawer(options);
  const drawn = await Promise.all(
    shown.slice(0, MOST_PICTURES).map(async ({ path, tag }) => ({ tag, picture: await draw(path) })),
  );
  return drawn
    .filter((one): one is { tag: string; picture: DrawnPicture } => one.picture !== undefined)
    .map(({ tag, picture }) => imageValue(tag, picture));
}

/** An event file that is appended to. */
class EventFile {
  readonly #path: string;

  private constructor(path: string) {
    this.#path = path;
  }

  /** Begins a file after those that are there. Readers take the files of a folder in order of their names. */
  static async begin(folder: string, { atMs, step }: EventTime): Promise<EventFile> {
    const now = Math.floor(atMs / 1000);
    const file = attempt(folder, () => {
      mkdirSync(folder, { recursive: true });
      const last = Math.max(0, ...readdirSync(folder).map((name) => Number(name.split(".")[3]) || 0));
      const second = String(Math.max(now, last + 1)).padStart(10, "0");
      return new EventFile(join(folder, `events.out.tfevents.${second}.${hostname()}.${process.pid}.0`));
    });
    await file.#append(versionRecord({ atMs, step: 0 }));
    if (step > 0) await file.#append(restartRecord({ atMs, step: step + 1 }));
    return file;
  }

  async add(time: EventTime, values: readonly Value[]): Promise<void> {
    if (values.length > 0) await this.#append(summaryRecord(time, values));
  }

  async #append(record: Buffer): Promise<void> {
    await appendFile(this.#path, record).catch((cause) => {
      throw cannotWrite(this.#path, cause);
    });
  }
}

function attempt<T>(path: string, body: () => T): T {
  try {
    return body();
  } catch (cause) {
    throw cannotWrite(path, cause);
  }
}
