/** Reads the memory over a step that a run has recorded. */
import { closeSync, fstatSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { openLog } from "../../../runs/logTail.ts";
import { MEMORY_FILE, type StepMemory } from "../../../train/folder/stepMemory.ts";
import { HttpError } from "../../http/httpError.ts";

/** A profile of 400 moments has a few tens of thousands of bytes. */
const MOST_BYTES = 2 ** 24;

/** Reads the memory of a run's step. Throws HttpError if the run has recorded none. */
export function readMemory(folder: string): StepMemory {
  const file = openLog(join(folder, MEMORY_FILE));
  if (file === undefined) throw none();
  try {
    if (fstatSync(file).size > MOST_BYTES) throw none();
    const memory = JSON.parse(readFileSync(file, "utf8")) as StepMemory | null;
    if (memory?.version !== 1) throw none();
    return memory;
  } catch (cause) {
    throw cause instanceof SyntaxError ? none() : cause;
  } finally {
    closeSync(file);
  }
}

function none(): HttpError {
  return new HttpError(404, "This run has not recorded its memory over a step.");
}
