/** Help texts of the program and of each command, from the specs of its options. */
import type { OptionSpec } from "../../options.ts";
import { commandLine } from "../../program.ts";
import type { CommandOptions } from "./commonOptions.ts";

const FLAG_COLUMNS = 30;
const NAME_COLUMNS = 12;
const LEAST_COLUMNS = 60;
const MOST_COLUMNS = 110;

/** Returns the text of `lorafit --help`. */
export function programHelp(version: string, summaries: Record<string, string>): string {
  const commands = Object.entries(summaries).map(
    ([name, summary]) => `  ${name.padEnd(NAME_COLUMNS)}${summary}`,
  );
  return [
    `lorafit ${version}: LoRA fine-tuning of vision-language models in the GPU memory you have`,
    "",
    "Usage: lorafit COMMAND [flags]",
    "",
    ...commands,
    "",
    `${commandLine("COMMAND --help")} shows the flags of a command. Every command has --json for scripts.`,
  ].join("\n");
}

/** Returns the text of `lorafit COMMAND --help` for a terminal of so many columns. */
export function commandHelp(
  name: string,
  { about, examples, positional, config }: CommandOptions,
  specs: OptionSpec[],
  terminalColumns = MOST_COLUMNS,
): string {
  const columns = Math.min(MOST_COLUMNS, Math.max(LEAST_COLUMNS, terminalColumns));
  const required = specs.filter((spec) => spec.required && !config);
  const words = required.map(({ key, flag, value }) => (key === positional ? value : `${flag} ${value}`));
  const groups = [...new Set(specs.map((spec) => spec.group))];
  return [
    wrap(about, columns),
    "",
    `Usage: lorafit ${[name, ...words].join(" ")} [flags]`,
    ...groups.flatMap((heading) => [
      "",
      heading,
      ...specs.filter(({ group }) => group === heading).map((spec) => flagHelp(spec, columns)),
    ]),
    "",
    "Examples",
    ...examples.map((example) => exampleHelp(example, columns)),
  ].join("\n");
}

/** Returns a flag with its value: "--lora-r N", "--[no-]shuffle", "--resume [FOLDER]". */
export function flagUsage({ flag, kind, value, many, default: preset }: OptionSpec): string {
  if (kind === "switch") return preset === true ? `--[no-]${flag.slice(2)}` : flag;
  if (kind === "either") return `${flag} [${value}]`;
  return `${flag} ${value}${many ? "..." : ""}`;
}

/** Returns the default: "64", "required", or nothing. */
export function defaultText({ required, kind, many, default: preset }: OptionSpec): string {
  if (required) return "required";
  if (preset === undefined || kind !== "value" || (many && (preset as unknown[]).length === 0)) return "";
  return [preset].flat().map(shown).join(" ");
}

/** Writes small numbers as people do: 5e-5. */
function shown(value: unknown): string {
  const small = typeof value === "number" && value !== 0 && Math.abs(value) < 1e-3;
  return small ? value.toExponential() : String(value);
}

/**
 * Returns a command line that can be copied. A long command line is broken before a flag, with a backslash at
 * the end of the line.
 */
function exampleHelp(example: string, columns: number): string {
  const [first = "", ...flags] = commandLine(example).split(/ (?=--)/);
  const lines = [`  ${first}`];
  for (const flag of flags) {
    const joined = `${lines.at(-1)} ${flag}`;
    if (joined.length + " \\".length <= columns) lines[lines.length - 1] = joined;
    else lines.push(`      ${flag}`);
  }
  return lines.join(" \\\n");
}

/** Returns "[default: 64]", "[required]", or nothing. */
function defaultNote(spec: OptionSpec): string {
  const text = defaultText(spec);
  if (text === "") return "";
  return spec.required ? `[${text}]` : `[default: ${text}]`;
}

function flagHelp(spec: OptionSpec, columns: number): string {
  const usage = `  ${flagUsage(spec)}`;
  const text = [spec.help, defaultNote(spec)].filter(Boolean).join(" ");
  const lines = wrap(text, columns - FLAG_COLUMNS).split("\n");
  const indented = lines.map((line) => " ".repeat(FLAG_COLUMNS) + line);
  if (usage.length + 2 > FLAG_COLUMNS) return [usage, ...indented].join("\n");
  return [usage.padEnd(FLAG_COLUMNS) + lines[0], ...indented.slice(1)].join("\n");
}

/** Breaks a text at spaces into lines of at most so many characters. */
export function wrap(text: string, columns: number): string {
  const lines: string[] = [];
  let line = "";
  for (const word of text.split(" ")) {
    if (line && line.length + 1 + word.length > columns) {
      lines.push(line);
      line = word;
    } else {
      line = line ? `${line} ${word}` : word;
    }
  }
  return [...lines, line].join("\n");
}
