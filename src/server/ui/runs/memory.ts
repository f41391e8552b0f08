/** Reads the memory over a step that a run has recorded. */
import { closeSync, fstatSync, readFileSync } from "node:fs";
import { openLog } from "../../../runs/logTail.ts";
import { HttpError } from "../../http/httpError.ts";

/** A profile of 400 moments has a few tens of thousands of bytes. */
const MOST_BYTES = 2 ** 24;

/** Returns the JSON object in the file. Throws HttpError if there is none. */
export function readMemory(path: string): object {
  const file = openLog(path);
  if (file === undefined) throw none();
  try {
    if (fstatSync(file).size > MOST_BYTES) throw none();
    const value: unknown = JSON.parse(readFileSync(file, "utf8"));
    if (typeof value !== "object" || value === null) throw none();
    return value;
  } catch (cause) {
    throw cause instanceof SyntaxError ? none() : cause;
  } finally {
    closeSync(file);
  }
}

function none(): HttpError {
  return new HttpError(404, "This run has not recorded its memory over a step.");
}
