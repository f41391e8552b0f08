/**
 * Journal of the GPU bench: one line a measurement, written at once, so a killed run loses nothing and the
 * next one continues. A line counts as long as neither the machine nor the measured program has changed.
 */
import { createHash } from "node:crypto";
import { appendFileSync, mkdirSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { type GpuCase, titleOf } from "./matrix.ts";
import type { PlannedPeaks } from "./planned.ts";
import { type Outcome, type Row, SIDES, type Side } from "./tables.ts";

/** Facts that a side reports after loading its weights. */
export interface Facts {
  /** A peer's has its versions. */
  name: string;
  skipped?: string;
  policy?: object;
  matrixFlopsPerSecond?: number;
  planned?: PlannedPeaks;
}

export interface Measurement {
  case: GpuCase;
  side: Side;
  steps: number;
  outcome: Outcome;
  facts?: Facts | undefined;
}

/** Key of a measurement; both parts are compared as they stand. */
export interface Setting {
  /** Card, driver and libtorch. */
  machine: string;
  /** A hash of what was measured. */
  programs: Record<Side, string>;
}

type Line = Measurement & { date: string; machine: string; program: string };

export class Journal {
  readonly #path: string;
  readonly #setting: Setting;
  readonly #counting = new Map<string, Line>();

  /** Throws where the file can't be written: better now than after the first measurement. */
  constructor(path: string, setting: Setting) {
    this.#path = path;
    this.#setting = setting;
    mkdirSync(dirname(path), { recursive: true });
    appendFileSync(path, "");
    if (!/(^|\n)$/.test(readFileSync(path, "utf8"))) appendFileSync(path, "\n"); // a kill cut the last line short
    for (const line of linesOf(path)) {
      if (line.machine === setting.machine && line.program === setting.programs[line.side])
        this.#counting.set(keyOf(line), line);
    }
  }

  add(measurement: Measurement): void {
    const { machine, programs } = this.#setting;
    const line = {
      ...measurement,
      date: new Date().toISOString(),
      machine,
      program: programs[measurement.side],
    };
    appendFileSync(this.#path, `${JSON.stringify(line)}\n`);
    this.#counting.set(keyOf(line), line);
  }

  /** Undefined where nothing counts. */
  find(wanted: GpuCase, side: Side): Measurement | undefined {
    return this.#counting.get(keyOf({ case: wanted, side }));
  }

  /** All that counts, by case in the order of the cases given. */
  rows(cases: readonly GpuCase[]): Row[] {
    return cases.flatMap((wanted) => {
      const found = SIDES.flatMap((side) => this.find(wanted, side) ?? []);
      if (found.length === 0) return [];
      const outcomes = Object.fromEntries(found.map(({ side, outcome }) => [side, outcome]));
      return [{ case: wanted, outcomes, planned: found.find(({ facts }) => facts?.planned)?.facts?.planned }];
    });
  }

  /** Best rate of a product and versions of the peers, over all measurements that count. */
  facts(): { flopsPerSecond: number; peers: string[] } {
    const all = [...this.#counting.values()].flatMap(({ side, facts }) => (facts ? [{ side, facts }] : []));
    return {
      flopsPerSecond: Math.max(0, ...all.map(({ facts }) => facts.matrixFlopsPerSecond ?? 0)),
      peers: [...new Set(all.filter(({ side }) => side !== "lorafit").map(({ facts }) => facts.name))],
    };
  }
}

/** Returns whether a measurement is final: too little memory stays too little, other failures may be gone. */
export function isSettled({ outcome }: Measurement): boolean {
  return !("failed" in outcome) || /out of ?memory/i.test(outcome.failed);
}

/** A hash of files, and of those in folders that end so. */
export function hashOf(paths: readonly string[], ending: RegExp): string {
  const hash = createHash("sha256");
  for (const path of paths) {
    const files = statSync(path).isDirectory()
      ? readdirSync(path, { recursive: true, encoding: "utf8" }).map((name) => join(path, name))
      : [path];
    for (const file of files.filter((name) => ending.test(name)).sort()) hash.update(readFileSync(file));
  }
  return hash.digest("hex").slice(0, 16);
}

function keyOf({ case: wanted, side }: Pick<Measurement, "case" | "side">): string {
  return `${wanted.size} ${titleOf(wanted)} ${side}`;
}

/** A line that was cut short is none. */
function linesOf(path: string): Line[] {
  return readFileSync(path, "utf8")
    .split("\n")
    .flatMap((line) => {
      try {
        return [JSON.parse(line) as Line];
      } catch {
        return [];
      }
    });
}
