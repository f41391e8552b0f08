#!/usr/bin/env node
/**
 * Runs a command line: finds the command, reads its options, and turns errors into messages and exit codes.
 */
import { readFileSync } from "node:fs";
import { UsageError, UserError } from "../errors.ts";
import { EXIT_PEER_LOST } from "../launch/exitCodes.ts";
import { printableLines } from "../printable.ts";
import { commandLine } from "../program.ts";
import { LostPeersError } from "../torch/peers/lost.ts";
import type { CommandName, OptionsOf } from "./args/commandOptions.ts";
import { programHelp } from "./args/help.ts";
import { outliveReaders } from "./output/interruption.ts";
import { Output } from "./output/output.ts";
import { stderrOf } from "./output/terminal.ts";

interface Command<N extends CommandName> {
  summary: string;
  /** Loads the module of this command alone. */
  load: () => Promise<{ run: (options: OptionsOf<N>, output: Output) => Promise<void> }>;
}

// biome-ignore format: columns line up
const COMMANDS: { [N in CommandName]: Command<N> } = {
  plan:     { summary: "find out what fits a card, and how fast it runs",      load: () => import("./commands/plan.ts") },
  fit:      { summary: "find the longest sample that fits, by real steps",   load: () => import("./commands/fit.ts") },
  init:     { summary: "write a commented train.yaml for a data set",        load: () => import("./commands/init.ts") },
  train:    { summary: "train a LoRA adapter on pictures and text",          load: () => import("./commands/train.ts") },
  sweep:    { summary: "find the best settings by many runs",              load: () => import("./commands/sweep.ts") },
  "sweep show": { summary: "show the table of a sweep",                     load: () => import("./commands/sweepShow.ts") },
  eval:     { summary: "compute losses of samples, and score answers",      load: () => import("./commands/eval.ts") },
  generate: { summary: "answer the questions of a data set, or one",         load: () => import("./commands/generate.ts") },
  chat:     { summary: "talk with the model about pictures",                 load: () => import("./commands/chat.ts") },
  serve:    { summary: "answer other programs by OpenAI's API",               load: () => import("./commands/serve.ts") },
  merge:    { summary: "merge an adapter into its base model",     load: () => import("./commands/merge.ts") },
  verify:   { summary: "compare an adapter applied with merged checkpoints", load: () => import("./commands/verify.ts") },
  quantize: { summary: "write a checkpoint in 8 or 4 bits",                      load: () => import("./commands/quantize.ts") },
  preview:  { summary: "show what the model sees of a picture or sample",       load: () => import("./commands/preview.ts") },
  validate: { summary: "check a data set, and count its tokens",               load: () => import("./commands/validate.ts") },
  report:   { summary: "write a run as a page with charts",                        load: () => import("./commands/report.ts") },
  ui:       { summary: "watch and compare runs on a page in the browser",        load: () => import("./commands/ui.ts") },
  tokenize: { summary: "print the token ids of texts",                                 load: () => import("./commands/tokenize.ts") },
  pages:    { summary: "draw document pages with questions and answers",       load: () => import("./commands/pages.ts") },
  tiny:     { summary: "write a small random checkpoint",                    load: () => import("./commands/tiny.ts") },
  demo:     { summary: "run the main commands once, on a tiny model",        load: () => import("./commands/demo.ts") },
  pull:     { summary: "download a model",                                   load: () => import("./commands/pull.ts") },
  setup:    { summary: "find or install libtorch, and build the engine",     load: () => import("./commands/setup.ts") },
  doctor:   { summary: "report what is on this machine, and what is missing", load: () => import("./commands/doctor.ts") },
};

const EXIT_FAILED = 1;
const EXIT_WRONG_USAGE = 2;

outliveReaders(process);
const exitCode = await main(process.argv.slice(2));
if (exitCode !== 0) process.exitCode = exitCode; // a command that was interrupted has set its own

async function main([name = "", ...argv]: string[]): Promise<number> {
  if (name === "--version") return print(version());
  if (name === "help" || name === "--help" || name === "-h") {
    const [asked] = argv;
    return asked === undefined || asked.startsWith("-") ? print(overview()) : main([...argv, "--help"]);
  }
  if (name === "") {
    process.stderr.write(`${overview()}\n`);
    return EXIT_WRONG_USAGE;
  }
  const [word, ...rest] = argv;
  const longer = `${name} ${word}`; // such as sweep show
  if (Object.hasOwn(COMMANDS, longer)) return runCommand(longer as CommandName, rest);
  return Object.hasOwn(COMMANDS, name) ? runCommand(name as CommandName, argv) : unknownCommand(name);
}

async function runCommand<N extends CommandName>(name: N, argv: string[]): Promise<number> {
  const { readCommand } = await import("./args/readCommand.ts");
  let request: ReturnType<typeof readCommand>;
  try {
    request = readCommand(name, argv, process.stdout.columns);
  } catch (thrown) {
    return fail(thrown, EXIT_WRONG_USAGE);
  }
  if (request.kind === "help") return print(request.text);
  const { stdout, env: environment } = process;
  const output = new Output({ stdout, stderr: stderrOf(process), environment, json: request.json });
  for (const note of request.notes) output.note(`note: ${note}`);
  try {
    const { run } = await COMMANDS[name].load();
    await run(request.options as OptionsOf<N>, output);
    return 0;
  } catch (thrown) {
    output.endLive();
    return fail(thrown, exitCodeOf(thrown));
  }
}

/** Returns 75 (EX_TEMPFAIL) if another rank has failed: started again, the run continues. */
function exitCodeOf(thrown: unknown): number {
  if (causesOf(thrown).some((cause) => cause instanceof LostPeersError)) return EXIT_PEER_LOST;
  return thrown instanceof UsageError ? EXIT_WRONG_USAGE : EXIT_FAILED;
}

/** Returns an error and its causes: a run adds to the words of an error how to continue. */
function causesOf(thrown: unknown): unknown[] {
  return thrown instanceof Error ? [thrown, ...causesOf(thrown.cause)] : [];
}

async function unknownCommand(name: string): Promise<number> {
  const { didYouMean } = await import("./args/didYouMean.ts");
  const near = didYouMean(
    name,
    Object.keys(COMMANDS).map((known) => [known, known]),
  );
  const fix = near ? `Did you mean ${near}?` : `${commandLine("--help")} shows the commands.`;
  return fail(new UsageError(`There is no command "${name}".`, { fix }), EXIT_WRONG_USAGE);
}

/**
 * Prints an error: for the user's errors what to do, for defects the stack and how to report it. Returns the
 * exit code.
 */
function fail(thrown: unknown, exitCode: number): number {
  const label = process.stderr.isTTY && !process.env.NO_COLOR ? "\x1b[1;31merror:\x1b[0m" : "error:";
  if (thrown instanceof UserError) {
    const fix = thrown.fix?.replaceAll(/^/gm, "  ");
    process.stderr.write(`${label} ${thrown.message}\n${fix ? `${fix}\n` : ""}`);
    return exitCode;
  }
  const stack = printableLines(String((thrown instanceof Error && thrown.stack) || thrown));
  process.stderr.write(
    `${label} ${stack}\n  This is a defect of lorafit ${version()}. Please report it with these lines and the command that you ran.\n`,
  );
  return EXIT_FAILED;
}

function print(text: string): number {
  process.stdout.write(`${text}\n`);
  return 0;
}

function overview(): string {
  const summaries = Object.entries(COMMANDS).map(([name, { summary }]) => [name, summary]);
  return programHelp(version(), Object.fromEntries(summaries));
}

function version(): string {
  return JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")).version;
}
