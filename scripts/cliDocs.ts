/** docs/cli.md: every command and flag, from the options themselves. */

import { COMMAND_OPTIONS } from "../src/cli/args/commandOptions.ts";
import { type CommandOptions, CommonOptions, ConfigOptions } from "../src/cli/args/commonOptions.ts";
import { defaultText, flagUsage, wrap } from "../src/cli/args/help.ts";
import { BATCH_FACTORS, OFFICIAL_FLAGS } from "../src/cli/args/officialFlags.ts";
import { type OptionSpec, optionSpecs } from "../src/options.ts";

const INTRODUCTION = `# Commands

<!-- Generated from the option schemas (src/train/options/options.ts, src/cli/args/commandOptions.ts) by \`make docs\`; a test compares. -->

Every flag may be written with underscores (\`--lora_r\`), joined (\`--lora-r=8\`) or, where it is a switch, negated
(\`--no-shuffle\`). A list is given as \`--data a.json b.json\` or by repeating the flag. stdout carries the answer, stderr the
progress. Exit codes: 0 done, 1 an error, 2 wrong flags or a wrong configuration.

A training configuration is YAML with the options of \`lorafit train\` as keys. Every name that works as a flag works as a key. All errors in
the file and the flags are reported at once, with line and column:

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
  const rows = OFFICIAL_FLAGS.map(
    ({ names, why, only }) =>
      `| ${names.map((name) => `\`--${name}\``).join(" ")} | ${only?.map((value) => value || "empty").join(", ") ?? "any"} | ${why} |`,
  );
  return [
    "## Names of the official script without an option here",
    "",
    "`lorafit train` accepts the flags of the official finetune_lora.sh as they stand, also as keys of a configuration. The names below have",
    "no option of their own. Those that accept any value have no effect, and one note lists them.",
    "",
    wrap(
      `The official data set stacks \`--batch_size\` samples, and a GPU takes as many of these stacks as ${BATCH_FACTORS.map((name) => `\`--${name}\``).join(" or ")} says. Here the product of the two is \`batch_size\`, the samples of a micro-batch.`,
      COLUMNS,
    ),
    "",
    "| names | values | why |",
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
  const preset = defaultText(spec);
  const aliases = spec.aliases.map((alias) => `\`${alias.length === 1 ? "-" : "--"}${alias}\``);
  const cells = [`\`${flagUsage(spec)}\``, spec.help, preset, aliases.join(" ")];
  return `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |`;
}
