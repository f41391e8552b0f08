/** Checks whether a checkpoint has the tensors that a model needs. */
import { UserError } from "../errors.ts";
import { shownName } from "../printable.ts";
import type { Checkpoint } from "./checkpoint.ts";

const MOST_LISTED = 8;

/**
 * Compares the names and shapes of a checkpoint with those that a model expects, without reading weights.
 * `optional` names may be missing or present. Throws one UserError that lists all differences.
 */
export function checkTensors(
  checkpoint: Checkpoint,
  expected: ReadonlyMap<string, readonly number[]>,
  { optional = [] }: { optional?: readonly string[] } = {},
): void {
  const known = new Set([...expected.keys(), ...optional]);
  const missing = [...expected.keys()].filter((name) => !checkpoint.has(name));
  const unexpected = checkpoint.names.filter((name) => !known.has(name));
  const misshapen = [...expected].flatMap(([name, shape]) => {
    const found = checkpoint.has(name) ? checkpoint.entry(name).shape : shape;
    return found.join() === shape.join()
      ? []
      : [`${name}: [${found.join(", ")}] instead of [${shape.join(", ")}]`];
  });
  const faults = [
    listed("missing", missing),
    listed("of another shape", misshapen),
    listed("not part of the model", unexpected),
  ].filter((fault) => fault !== undefined);
  if (faults.length === 0) return;
  throw new UserError(`${checkpoint.place}: its tensors are not those of the model.\n${faults.join("\n")}`, {
    fix: "Check that config.json and weights belong together, and that lorafit supports the model.",
  });
}

function listed(fault: string, names: readonly string[]): string | undefined {
  if (names.length === 0) return undefined;
  return `  ${names.length} ${fault}:\n${linesOf(names.map(shownName))}`;
}

/** Lists names, one a line; after the first eight it only counts. */
export function linesOf(names: readonly string[], indent = "    "): string {
  const more = names.length > MOST_LISTED ? [`and ${names.length - MOST_LISTED} more`] : [];
  return [...names.slice(0, MOST_LISTED), ...more].map((name) => `${indent}${name}`).join("\n");
}
