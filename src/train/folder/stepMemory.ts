/** memory.json of a run's folder: the memory over one step, measured and planned. */
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { cannotRead } from "../../checkpoint/faults.ts";
import { writeFileWhole } from "../../checkpoint/files/disk.ts";
import type { SampleSource } from "../../data/samples/sample.ts";
import type { StepProfile } from "../../plan/memory/stepProfile.ts";

/** The memory over one step of a run, for a chart. */
export const MEMORY_FILE = "memory.json";

/** Content of memory.json. A step with a larger last micro-batch replaces it. */
export interface StepMemory {
  version: 1;
  /** The measured step, from 1. The profile is of its last micro-batch and the update. */
  step: number;
  /** Tokens of that micro-batch. */
  tokens: number;
  samples: SampleSource[];
  device: string;
  /** Memory limits of the run in bytes; a limit that nobody has set is absent. */
  limits: { deviceBytes?: number; hostBytes?: number };
  /** Bytes that count against the device's limit and are in no profile: a card's context, and rounding. */
  besideBytes: number;
  measured: StepProfile;
  /** Plan of that micro-batch. */
  planned: StepProfile;
}

export function writeStepMemory(output: string, memory: StepMemory): void {
  writeFileWhole(join(output, MEMORY_FILE), `${JSON.stringify(memory)}\n`);
}

/** Reads memory.json of a run's folder; undefined if the run has none, or one of another version. */
export async function readStepMemory(output: string): Promise<StepMemory | undefined> {
  const path = join(output, MEMORY_FILE);
  const text = await readFile(path, "utf8").catch((cause: NodeJS.ErrnoException) => {
    if (cause.code === "ENOENT" || cause.code === "ENOTDIR") return undefined;
    throw cannotRead(path, cause);
  });
  try {
    const memory = JSON.parse(text ?? "null") as StepMemory | null;
    return memory?.version === 1 ? memory : undefined;
  } catch {
    return undefined; // a damaged file says nothing; the rest of the run can be shown
  }
}
