/** Reads one command's arguments: its checked options, or its help. */
import { existsSync } from "node:fs";
import { join } from "node:path";
import { UsageError } from "../../errors.ts";
import { unitlessError } from "../../memoryOption.ts";
import { asPhrase, flagOf, type OptionSpec, optionSpecs, parseOptions } from "../../options.ts";
import { commandLine, quoted } from "../../program.ts";
import { EXCLUSIVE_OPTIONS } from "../../train/options/options.ts";
import { COMMAND_OPTIONS, type CommandName } from "./commandOptions.ts";
import { type CommandOptions, CommonOptions, ConfigOptions } from "./commonOptions.ts";
import { type Config, readConfig } from "./config.ts";
import { type Given, readFlags } from "./flags.ts";
import { commandHelp } from "./help.ts";
import { ignoredNote, OFFICIAL_SPECS, takeOfficialNames } from "./officialFlags.ts";

export type Request =
  | { kind: "help"; text: string }
  | { kind: "run"; options: unknown; json: boolean; notes: string[] };

/** Throws UsageError for everything that is wrong with the arguments and the configuration. */
export function readCommand(name: CommandName, argv: string[], columns: number | undefined): Request {
  const command: CommandOptions = COMMAND_OPTIONS[name];
  const specs = optionSpecs(command.options);
  const commonSchema = command.config ? ConfigOptions : CommonOptions;
  const commonSpecs = optionSpecs(commonSchema);
  const named = [...specs, ...(name === "train" ? OFFICIAL_SPECS : []), ...(command.unlisted ?? [])];
  const given = readFlags(argv, [...named, ...commonSpecs]);
  const common = parseOptions(ConfigOptions, take(given, commonSpecs), spelling(given));
  if (common.help) {
    return { kind: "help", text: commandHelp(name, command, [...specs, ...commonSpecs], columns) };
  }
  takePositionals(given, command);
  const config = configOf(common.config, given, named);
  const spell = spelling(given, config);
  const official = [config?.raw ?? {}, given.raw].map((raw) => takeOfficialNames(raw, spell));
  const raw = config ? { ...overridden(config.raw, given.raw), ...given.raw } : given.raw;
  requireWord(command, specs, raw);
  const errors = [...(config?.errors ?? []), ...official.flatMap((taken) => taken.errors)];
  const read = command.read ?? ((...given) => parseOptions(command.options, ...given));
  const options = read(raw, spell, errors) as Record<string, unknown>;
  refuseUnitless(options, raw, spell);
  const ignored = new Set(official.flatMap((taken) => taken.ignored));
  return { kind: "run", options, json: common.json, notes: ignoredNote([...ignored]) };
}

function refuseUnitless(
  options: Record<string, unknown>,
  raw: Record<string, unknown>,
  spell: (key: string) => string,
): void {
  for (const key of ["memory", "host_memory"]) {
    const [error] = unitlessError(spell(key), options[key], raw[key]);
    if (error) throw error;
  }
}

/** Reads the configuration that --config names, or that of the run that --resume names. */
function configOf(file: string | undefined, given: Given, specs: OptionSpec[]): Config | undefined {
  const { resume } = given.raw;
  if (file !== undefined) return readConfig(file, specs);
  if (typeof resume !== "string") return undefined;
  const ofRun = join(resume, "train.yaml");
  if (existsSync(ofRun)) return readConfig(ofRun, specs);
  throw new UsageError(`There is no run in ${resume}: ${ofRun} is missing.`, {
    fix: "Name the output folder of a run that has begun, or pass the options of a new one.",
  });
}

/** Returns the options of a file without those that a flag replaces, by name or by meaning. */
function overridden(file: Record<string, unknown>, flags: Record<string, unknown>): Record<string, unknown> {
  const replaced = EXCLUSIVE_OPTIONS.flatMap(([one, other]) => [
    ...(flags[one] === undefined ? [] : [other]),
    ...(flags[other] === undefined ? [] : [one]),
  ]);
  return Object.fromEntries(Object.entries(file).filter(([key]) => !replaced.includes(key as never)));
}

function takePositionals({ raw, spelled, positionals }: Given, { positional, config }: CommandOptions): void {
  const [first, ...others] = positionals;
  const surplus = positional && raw[positional] === undefined ? others[0] : first;
  if (surplus !== undefined) {
    throw new UsageError(`"${surplus}" is a word too many.`, {
      fix:
        config && /\.ya?ml$/i.test(surplus)
          ? `Pass --config ${quoted(surplus)}.`
          : "Put a value with spaces in quotes; --help shows the flags of the command.",
    });
  }
  if (positional && first !== undefined) {
    raw[positional] = first;
    spelled.set(positional, positional);
  }
}

/** Asks for the word that a command works on, which needs no flag, if it is missing. */
function requireWord({ positional, examples }: CommandOptions, specs: OptionSpec[], raw: Given["raw"]): void {
  const spec = specs.find(({ key }) => key === positional);
  if (!spec?.required || raw[spec.key] !== undefined) return;
  throw new UsageError(`${spec.value} is missing: ${asPhrase(spec.help)}.`, {
    fix: `Name it, as in: ${commandLine(examples[0] ?? "")}`,
  });
}

/** Takes the options of these specs out of those given. */
function take({ raw }: Given, specs: OptionSpec[]): Record<string, unknown> {
  const taken: Record<string, unknown> = {};
  for (const { key } of specs) {
    if (raw[key] !== undefined) taken[key] = raw[key];
    delete raw[key];
  }
  return taken;
}

/** Returns how errors name an option: as the flag was typed, by its place in the file, or by its flag. */
function spelling({ spelled }: Given, config?: Config): (key: string) => string {
  return (key) => spelled.get(key) ?? config?.spell(key) ?? flagOf(key);
}
