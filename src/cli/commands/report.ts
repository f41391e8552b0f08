/** `lorafit report`: a run as one page with its charts. */
import { readFile } from "node:fs/promises";
import { basename, extname, join } from "node:path";
import { requireWritable, writeFileWhole } from "../../checkpoint/disk.ts";
import { cannotRead } from "../../checkpoint/faults.ts";
import { UserError } from "../../errors.ts";
import { commandLine } from "../../program.ts";
import { REPORT_FILE } from "../../train/folder/runLog.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import type { Output } from "../output/output.ts";
import { runHtml, runSummary, type Scores } from "../run/html.ts";
import { readRun } from "../run/readRun.ts";

export async function run(options: OptionsOf<"report">, output: Output): Promise<void> {
  const folder = options.run;
  const recorded = await readRun(folder);
  const out = options.out ?? join(folder, REPORT_FILE);
  requireWritable(out);
  const html = runHtml({
    folder,
    ...recorded,
    scores: await Promise.all(options.evals.map(readScores)),
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

/** The last line of what `lorafit eval --json` printed. */
async function readScores(path: string): Promise<Scores> {
  const last = (await readText(path)).trimEnd().split("\n").at(-1) as string;
  try {
    const { loss, exactMatch, anls, idleCard: _, ...others } = JSON.parse(last);
    if (typeof loss === "number" && Object.keys(others).length === 0)
      return { name: basename(path, extname(path)), loss, exactMatch, anls };
  } catch {
    // said below
  }
  throw new UserError(`${path}: this does not end as the output of an evaluation.`, {
    fix: `Write one with: ${commandLine("eval ... --json > FILE")}`,
  });
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
