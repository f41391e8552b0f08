/**
 * Writes commands for the user to run next, as this program was started: from a bundle, by npx, from a clone
 * or an installation.
 */
import { basename, delimiter, dirname, join, relative } from "node:path";

interface Start {
  environment: NodeJS.ProcessEnv;
  /** The file that Node runs. */
  script: string;
  /** The working folder. */
  folder: string;
}

const NPX = "npx lorafit";

/** Returns a command line to copy: "npx lorafit setup --cuda", in a bundle "./lorafit setup --cuda". */
export function commandLine(words: string): string {
  const [, script = ""] = process.argv;
  return `${programOf({ environment: process.env, script, folder: process.cwd() })} ${words}`;
}

/** Returns the words that start this program again in the same folder. */
export function programOf({ environment, script, folder }: Start): string {
  const { LORAFIT_PROGRAM, npm_command, PATH = "" } = environment;
  if (LORAFIT_PROGRAM) return quoted(LORAFIT_PROGRAM); // set by the launcher of a bundle
  const isLinked = basename(script) === "lorafit";
  const isEntry = script.endsWith(join("dist", "cli", "main.js"));
  if (npm_command === "exec" || !(isLinked || isEntry)) return NPX; // or a program of the user's own
  if (isLinked && PATH.split(delimiter).includes(dirname(script))) return "lorafit";
  const root = join(dirname(script), "..", ".."); // of dist/cli/main.js and of node_modules/.bin/lorafit
  if (!relative(root, folder).startsWith("..")) return NPX;
  return isLinked ? quoted(script) : `node ${quoted(script)}`;
}

/** Quotes a word for a shell, if it needs quotes. */
export function quoted(word: string): string {
  return /^[\w@%+=:,./~-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}
