/** Checks that all ranks were started alike, before the first collective. */
import { createHash } from "node:crypto";
import { hostname } from "node:os";
import { plural, UserError } from "../../errors.ts";
import type { Json, Peers } from "./peers.ts";

/** Longer facts are compared by their hash. */
const MOST_CHARACTERS = 60;
const MOST_STATED = 5;

/**
 * Compares facts among all ranks. Throws the same UserError on every rank if a rank differs from rank 0; it
 * names the ranks and the facts. Collectives of ranks that differ would compute nonsense, or end a process
 * without a word.
 */
export async function agree(peers: Peers, facts: Readonly<Record<string, Json>>): Promise<void> {
  const own = Object.entries(facts).map(([name, value]) => [name, shortened(value)]);
  const told = await peers.tell("agreement", { host: hostname(), facts: Object.fromEntries(own) });
  const [first, ...others] = told as { host: string; facts: Record<string, string> }[];
  const differences = others.flatMap(({ host, facts: theirs }, index) => {
    const names = new Set([...Object.keys(first!.facts), ...Object.keys(theirs)]);
    return [...names].flatMap((name) => {
      const [ours, other] = [first!.facts[name] ?? "nothing", theirs[name] ?? "nothing"];
      return ours === other ? [] : [`rank ${index + 1} (host ${host}) has ${name} ${other}, rank 0 ${ours}`];
    });
  });
  if (differences.length === 0) return;
  const stated = differences.slice(0, MOST_STATED);
  const more = differences.length - stated.length;
  throw new UserError(
    [
      "The ranks were not started alike:",
      ...stated.map((difference) => `  ${difference}`),
      ...(more > 0 ? [`  and ${plural(more, "more difference")}`] : []),
    ].join("\n"),
    { fix: "Start all ranks with the same lorafit, command line, configuration and data." },
  );
}

/** Writes a fact so that equal facts are equal texts, whatever the order of their keys. */
function shortened(value: Json): string {
  const text = JSON.stringify(sorted(value));
  if (text.length <= MOST_CHARACTERS) return text;
  return `sha256 ${createHash("sha256").update(text).digest("hex").slice(0, 16)}`;
}

function sorted(value: Json | undefined): unknown {
  if (typeof value !== "object" || value === null) return value;
  if (Array.isArray(value)) return value.map(sorted);
  const entries = Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1));
  return Object.fromEntries(entries.map(([key, each]) => [key, sorted(each)]));
}
