/** The form of a new run as it is filled in. */
import type { RunDraft, RunField, RunForm } from "../../../../src/server/ui/newRun/newRunApi.ts";
import type { PlanChoices } from "../../../../src/server/ui/plan/planApi.ts";

/** Texts and switches by field. Fields that are not touched are absent. */
export type Filled = Readonly<Record<string, string | boolean>>;

export function fieldsOf({ groups }: RunForm): RunField[] {
  return groups.flatMap(({ fields }) => fields);
}

/** Returns the draft that the server reads: lists are a line each. */
export function draftOf(form: RunForm, filled: Filled): RunDraft {
  const entries = fieldsOf(form).flatMap(({ key, many }): [string, string | boolean | string[]][] => {
    const value = filled[key];
    if (value === undefined) return [];
    return [[key, many && typeof value === "string" ? value.split("\n") : value]];
  });
  return { options: Object.fromEntries(entries) };
}

/** Returns the options of a plan for the same run on this machine; undefined before there is a model. */
export function planOptionsOf(
  form: RunForm,
  filled: Filled,
  here: PlanChoices["here"],
): Record<string, unknown> | undefined {
  const entries = fieldsOf(form).flatMap(({ key, numeric }): [string, unknown][] => {
    const value = filled[key];
    const text = typeof value === "string" ? value.trim() : value;
    if (text === undefined || text === "") return [];
    return [[key, numeric && !Number.isNaN(Number(text)) ? Number(text) : text]];
  });
  const options = Object.fromEntries(entries);
  if (options.model === undefined) return undefined;
  const isCard = /^cuda/.test(String(options.device ?? here.device));
  return { ...options, device: isCard ? "cuda" : "cpu", ...(isCard && here.gpu && { gpu: here.gpu }) };
}

/** Returns a first name for an output folder that no run has. */
export function freeOutput(paths: readonly string[]): string {
  let number = 1;
  while (paths.includes(`runs/${number}`)) number++;
  return `runs/${number}`;
}
