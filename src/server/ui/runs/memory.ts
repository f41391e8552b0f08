/** Reads the memory over a step that a run has recorded. */
import { closeSync, fstatSync, readFileSync } from "node:fs";
import { join } from "node:path";
import type { StepProfile } from "../../../plan/memory/stepProfile.ts";
import { openLog } from "../../../runs/logTail.ts";
import { MEMORY_FILE, type StepMemory } from "../../../train/folder/stepMemory.ts";
import { HttpError } from "../../http/httpError.ts";
import type { MemoryProfile, MemoryTimeline } from "../api.ts";

type Phases = NonNullable<MemoryTimeline["phases"]>;

/** A profile of 400 moments has a few tens of thousands of bytes. */
const MOST_BYTES = 2 ** 24;
const MOST_MOMENTS = 10_000;

/** Reads the memory of a run's step. Throws HttpError if the run has recorded none. */
export function readMemory(folder: string): MemoryProfile {
  const file = openLog(join(folder, MEMORY_FILE));
  if (file === undefined) throw none();
  try {
    if (fstatSync(file).size > MOST_BYTES) throw none();
    const memory = JSON.parse(readFileSync(file, "utf8")) as StepMemory | null;
    if (memory?.version !== 1) throw none();
    return profileOf(memory);
  } catch (cause) {
    throw cause instanceof SyntaxError || cause instanceof TypeError ? none() : cause;
  } finally {
    closeSync(file);
  }
}

function profileOf({ step, tokens, limits, besideBytes, measured, planned }: StepMemory): MemoryProfile {
  const phases = phasesOf(measured);
  return {
    ...{ step, tokens },
    ...(limits.deviceBytes !== undefined && { limitBytes: limits.deviceBytes - besideBytes }),
    measured: timelineOf(measured, phases),
    planned: timelineOf(planned, phases),
  };
}

/** Places a profile on the phases of the measured one: two runs of a phase may differ in length. */
function timelineOf(profile: StepProfile, places: Phases): MemoryTimeline {
  const own = phasesOf(profile);
  const x = own.flatMap(({ name, from, to }) => {
    const place = places.find((phase) => phase.name === name) ?? { from, to };
    const scale = (place.to - place.from) / (to - from);
    return Array.from({ length: to - from }, (_, moment) => place.from + moment * scale);
  });
  const columns = Object.values(profile.device);
  const peakBytes = x.reduce<number>((peak, _, at) => {
    return Math.max(
      peak,
      columns.reduce((sum, bytes) => sum + (bytes[at] ?? 0), 0),
    );
  }, 0);
  const phases = own.map((phase) => places.find(({ name }) => name === phase.name) ?? phase);
  return { axis: "allocation", x, byCategory: profile.device, peakBytes, phases };
}

function phasesOf({ phases }: StepProfile): Phases {
  let from = 0;
  return phases.map(({ name, moments }) => {
    if (!(Number.isInteger(moments) && from + moments <= MOST_MOMENTS)) throw none(); // no file of ours
    const phase = { name, from, to: from + moments };
    from = phase.to;
    return phase;
  });
}

function none(): HttpError {
  return new HttpError(404, "This run has not recorded its memory over a step.");
}
