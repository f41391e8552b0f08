/** The settings of runs: which of them differ, and how they read. */
import { formatBytes } from "./format.ts";

/** Settings that name places and not what is trained. */
const PLACES = new Set(["output", "resume", "report_to", "name"]);

/** Returns names of the settings that are not the same in all runs, those with the most different values first. */
export function differingSettings(all: readonly Record<string, unknown>[]): string[] {
  const known = all.filter((options) => Object.keys(options).length > 0); // a run that loads has none yet
  const names = [...new Set(known.flatMap((options) => Object.keys(options)))];
  return names
    .filter((name) => !PLACES.has(name))
    .map((name) => ({ name, count: new Set(known.map((options) => JSON.stringify(options[name]))).size }))
    .filter(({ count }) => count > 1)
    .sort((one, other) => other.count - one.count || one.name.localeCompare(other.name))
    .map(({ name }) => name);
}

/** Settings that are amounts of memory. */
const AMOUNTS = new Set(["memory", "host_memory"]);

/** Returns a setting's value in few characters: numbers as YAML has them, the ends of paths. */
export function settingText(value: unknown, name = ""): string {
  if (value === undefined || value === null) return "–";
  if (typeof value === "number" && AMOUNTS.has(name)) return formatBytes(value);
  if (typeof value === "number") return numberText(value);
  if (typeof value === "string") return pathEnd(value);
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map((each) => settingText(each)).join(", ");
  return JSON.stringify(value);
}

function numberText(value: number): string {
  if (value === 0 || (Math.abs(value) >= 1e-3 && Math.abs(value) < 1e6)) return String(value);
  return value.toExponential().replace("e+", "e");
}

function pathEnd(text: string): string {
  const parts = text.split("/").filter(Boolean);
  return parts.length > 2 ? `…/${parts.slice(-2).join("/")}` : text;
}
