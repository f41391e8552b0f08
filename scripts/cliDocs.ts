/** docs/cli.md: every command and flag, from the options themselves. */

import {
  COMMAND_OPTIONS,
  type CommandOptions,
  CommonOptions,
  ConfigOptions,
} from "../src/cli/args/commandOptions.ts";
import { defaultNote, flagUsage, wrap } from "../src/cli/args/help.ts";
import { OFFICIAL_FLAGS } from "../src/cli/args/officialFlags.ts";
import { type OptionSpec, optionSpecs } from "../src/options.ts";

const INTRODUCTION = `# Commands

<!-- Generated from the option schemas (src/train/options/options.ts, src/cli/args/commandOptions.ts) by \`make docs\`; a test compares. -->

Every flag may be written with underscores (\`--lora_r\`), joined (\`--lora-r=8\`) or, where it is a switch, negated
(\`--no-shuffle\`). A list is given as \`--data a.json b.json\` or by repeating the flag. stdout carries the answer, stderr the
progress. Exit codes: 0 done, 1 an error, 2 wrong flags or a wrong configuration.

A training configuration is YAML with the options of \`lorafit train\` as keys, written with underscores:

\`\`\`yaml
# yaml-language-server: $schema=./node_modules/lorafit/schemas/train.schema.json
model: 4khd
data: data.txt
lora_r: 16
hd_num: 16
\`\`\`

Paths in it are taken from the working folder, as those of flags are; flags override the file.
`;

export function cliDocs(): string {
  const sections = Object.entries(COMMAND_OPTIONS).map(([name, command]) => sectionOf(name, command));
  return [INTRODUCTION, ...sections, officialSection()].join("\n");
}

function officialSection(): string {
  const rows = Object.entries(OFFICIAL_FLAGS).map(
    ([flag, { why, only }]) => `| \`--${flag}\` | ${only ?? "any"} | ${why} |`,
  );
  return [
    "## Flags of the official script that need none here",
    "",
    "`lorafit train` takes them, so that a command line of finetune_lora.sh works as it stands, and says that they have no effect.",
    "",
    "| flag | values | why |",
    "|---|---|---|",
    ...rows,
    "",
  ].join("\n");
}

/** Columns at which the document wraps. */
const COLUMNS = 140;

function sectionOf(name: string, command: CommandOptions): string {
  const specs = [
    ...optionSpecs(command.options),
    ...optionSpecs(command.config ? ConfigOptions : CommonOptions),
  ];
  const rows = specs.map(rowOf);
  const examples = command.examples.map((example) => `npx lorafit ${example}`);
  return [
    `## lorafit ${name}`,
    "",
    wrap(command.about, COLUMNS),
    "",
    "```sh",
    ...examples,
    "```",
    "",
    "| flag | meaning | default | also |",
    "|---|---|---|---|",
    ...rows,
    "",
  ].join("\n");
}

function rowOf(spec: OptionSpec): string {
  const preset = defaultNote(spec).slice(1, -1);
  const aliases = spec.aliases.map((alias) => `\`${alias.length === 1 ? "-" : "--"}${alias}\``);
  const cells = [`\`${flagUsage(spec)}\``, spec.help, preset, aliases.join(" ")];
  return `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
}
