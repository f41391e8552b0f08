/** `lorafit demo`: the main commands once, as a user runs them, on synthetic pages and a tiny model. */
import { spawn } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { makeFolder, writeFileWhole } from "../../checkpoint/files/disk.ts";
import { formatBytes, UsageError, UserError } from "../../errors.ts";
import { listOfChoices } from "../../options.ts";
import { commandLine, quoted } from "../../program.ts";
import type { OptionsOf } from "../args/commandOptions.ts";
import type { Output } from "../output/output.ts";
import { TINY_FAMILIES, type TinyFamilyName } from "./tiny.ts";

const PAGES = 64;
/** Pages for the evaluations during training. */
const EVALUATED = 8;
/** Little more than the run needs; a hard cap on a CPU. */
const MEMORY = "32MiB";

const TINY = ["--layers", "2", "--vision-hidden", "32", "--vision-layers", "1", "--vision-ffn", "128"];
const TRAINING = [
  ...["--epochs", "20", "--eval-every", "128", "--gradient-accumulation", "1", "--keep", "all"],
  ...["--lora-r", "64", "--learning-rate", "1e-3", "--warmup-steps", "20"],
  ...["--weight-decay", "0", "--lora-dropout", "0"],
];

/** Entries that a demo writes into its folder; nothing else there is ever removed. */
const WRITTEN = {
  pages: "pages",
  tiny: "tiny",
  preview: "preview",
  before: "before.jsonl",
  run: "run",
  after: "after.jsonl",
  merged: "merged",
  report: "report.html",
  summary: "summary.json",
} as const;

interface Score {
  loss: number;
  exactMatch: number;
  anls: number;
}

interface Summary {
  meanSteps: number;
  firstLoss: number;
  lastLoss: number;
  steps: number;
  tokens: number;
  durationMs: number;
  peakBytes: number;
}

export async function run({ output: folder, model }: OptionsOf<"demo">, output: Output): Promise<void> {
  const family = familyOf(model);
  clear(folder);
  const startedAtMs = performance.now();
  const place = (name: keyof typeof WRITTEN): string => join(folder, WRITTEN[name]);
  const command = (...words: string[]): Promise<void> => runCommand(words, output);
  const recorded = (file: string, ...words: string[]): Promise<void> => runCommand(words, output, file);
  const title = (text: string): void => output.answer(`\n${output.paint("bold", text)}`);
  const [data, page] = [join(place("pages"), "data.txt"), join(place("pages"), "images", "page-0001.png")];
  const limit = TINY_FAMILIES[family].limit.split(" ");
  const [tiny, adapter] = [
    ["--model", place("tiny")],
    ["--adapter", join(place("run"), "adapter")],
  ];
  const scored = ["--data", data, ...limit, "--answers", "--json"];

  title(`1. Draw ${PAGES} document pages at 3840 x 2160, with questions and answers`);
  await command("pages", "--output", place("pages"), "--count", `${PAGES}`);
  const { question, answer } = chooseEvaluated(place("pages"));

  title("2. Make a tiny checkpoint: published layout, random weights, its own tokenizer");
  await command("tiny", "--output", place("tiny"), "--family", family, ...TINY);

  title(
    `3. Preview a page as the model will see it, at ${limit.join(" ")} (real training has larger pictures)`,
  );
  await command("preview", ...tiny, "--image", page, ...limit, "--out", place("preview"));

  title("4. Score the model before training: its answers are noise");
  await recorded(place("before"), "eval", ...tiny, ...scored);
  output.answer(scoreLine(place("before")));

  title(`5. Train with LoRA on the CPU, within ${MEMORY}, with evaluations on ${EVALUATED} of the pages`);
  const evaluated = ["--eval-data", join(place("pages"), "evaluated.json")];
  const trained = ["--data", data, "--output", place("run"), ...limit, "--memory", MEMORY];
  await command("train", ...tiny, ...trained, ...evaluated, ...TRAINING);

  title("6. Score it after training, on the same pages (a tiny model can only learn pages by heart)");
  await recorded(place("after"), "eval", ...tiny, ...adapter, ...scored);
  output.answer(scoreLine(place("after")));

  title("7. Ask one question, with the adapter; merge; ask the merged checkpoint, which needs no adapter");
  const ask = ["--image", page, ...limit, "--max-new-tokens", "24", "--prompt", question];
  await command("generate", ...tiny, ...adapter, ...ask);
  await command("merge", ...tiny, ...adapter, "--output", place("merged"));
  await command("generate", "--model", place("merged"), ...ask);
  output.answer(`expected: ${answer}`);

  title("8. Write the run as a page");
  const drawing = ["--preview", join(place("preview"), "page-0001-tiles.png")];
  const shown = ["--out", place("report"), ...drawing, "--evals", place("before"), place("after"), "--json"];
  await recorded(place("summary"), "report", place("run"), ...shown);

  const seconds = Math.round((performance.now() - startedAtMs) / 1000);
  const summary = lastLine<Summary>(place("summary"));
  const [before, after] = [lastLine<Score>(place("before")), lastLine<Score>(place("after"))];
  output.record({ ...{ output: folder, family, seconds }, ...summary, before, after });
  title(`Done in ${seconds} s. All results are in ${folder}/`);
  output.answer(
    ending(folder, summary, { before: scoreLine(place("before")), after: scoreLine(place("after")) }),
  );
}

/** Returns the kind of tiny model that a name stands for: its own, or that of a preset, or its beginning. */
function familyOf(model: string): TinyFamilyName {
  const named = Object.entries(TINY_FAMILIES).find(
    ([family, { presets }]) =>
      family === model || presets.some((preset) => `${preset}-`.startsWith(`${model}-`)),
  );
  if (named) return named[0] as TinyFamilyName;
  throw new UsageError(`--model ${model}: there is no tiny model of that name.`, {
    fix: `Pass ${listOfChoices(Object.keys(TINY_FAMILIES))}, or the name of a model of these families.`,
  });
}

/** Makes the folder, and removes an earlier demo's results. Throws UserError if it holds anything else. */
function clear(folder: string): void {
  makeFolder(folder);
  const names = readdirSync(folder);
  const written = new Set<string>(Object.values(WRITTEN));
  const foreign = names.find((name) => !written.has(name));
  if (foreign !== undefined)
    throw new UserError(`${folder} holds ${foreign}, which no demo has written.`, {
      fix: "Pass another --output.",
    });
  for (const name of names) rmSync(join(folder, name), { recursive: true });
}

/** Writes the pages that training evaluates on, and returns the first question with its answer. */
function chooseEvaluated(pages: string): { question: string; answer: string } {
  const records = JSON.parse(readFileSync(join(pages, "pages.json"), "utf8"));
  writeFileWhole(join(pages, "evaluated.json"), JSON.stringify(records.slice(0, EVALUATED)));
  const [question, answer] = records[0].conversations;
  return { question: question.value, answer: answer.value };
}

/**
 * Shows a command as a user types it, then runs it. file: gets its stdout. Throws UserError if the command
 * fails.
 */
async function runCommand(words: readonly string[], output: Output, file?: string): Promise<void> {
  output.note(`$ ${commandLine(words.map(quoted).join(" "))}`);
  const out = file === undefined ? undefined : openSync(file, "w");
  // Waiting threads sleep instead of spinning, because the picture workers need the cores too.
  const env = { OMP_WAIT_POLICY: "PASSIVE", ...process.env };
  const stdout = out ?? (output.json ? 2 : "inherit");
  const child = spawn(process.execPath, [process.argv[1]!, ...words], {
    env,
    stdio: ["inherit", stdout, "inherit"],
  });
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on("error", reject).on("close", resolve);
  });
  if (out !== undefined) closeSync(out);
  if (code === 0) return;
  throw new UserError(
    `lorafit ${words[0]} has ended with ${code === null ? "a signal" : `exit code ${code}`}.`,
    {
      fix: "The demo ends here; the lines above say why.",
    },
  );
}

/** Returns the last line of a file of JSON lines. */
function lastLine<T>(file: string): T {
  return JSON.parse(readFileSync(file, "utf8").trimEnd().split("\n").at(-1)!);
}

function scoreLine(file: string): string {
  const { loss, exactMatch, anls } = lastLine<Score>(file);
  return `loss ${loss.toFixed(2)}, ${(100 * exactMatch).toFixed(0)}% of the answers exact, ANLS ${anls.toFixed(2)}`;
}

function ending(folder: string, summary: Summary, scores: { before: string; after: string }): string {
  const { meanSteps, firstLoss, lastLoss, steps, tokens, durationMs, peakBytes } = summary;
  const rate = Math.round((1000 * tokens) / durationMs);
  const losses = `${firstLoss.toFixed(2)} -> ${lastLoss.toFixed(2)}`;
  const facts = [
    [`loss of a step, mean of ${meanSteps}`, `${losses} in ${steps} steps, ${rate} tokens/s`],
    ["peak memory", `${formatBytes(peakBytes)}, limit ${MEMORY}`],
    ...Object.entries(scores),
  ];
  const files = [
    [WRITTEN.report, "the run's curves and answers; open it in a browser"],
    [`${WRITTEN.preview}/page-0001-tiles.png`, "a page with its tiles or windows"],
    [`${WRITTEN.pages}/`, "the data set, in the official format"],
    [`${WRITTEN.tiny}/`, "the base checkpoint"],
    [`${WRITTEN.run}/adapter/`, "the adapter, as PEFT reads it"],
    [`${WRITTEN.run}/`, "checkpoints, options, steps.jsonl"],
    [`${WRITTEN.merged}/`, "base and adapter as one checkpoint"],
  ];
  const lines = (rows: string[][], columns: number, before = ""): string[] =>
    rows.map(([name, text]) => `  ${(before + name).padEnd(columns)} ${text}`);
  return [...lines(facts, 27), "", ...lines(files, 40, `${folder}/`)].join("\n");
}
