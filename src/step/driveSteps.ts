/** Long computations that let the event loop have its turn. */
import { setImmediate } from "node:timers/promises";

/** Runs a generator to its end, and gives way at every yield. */
export async function drive<Phase, Result>(
  steps: Generator<Phase, Result>,
  onPhase?: (phase: Phase) => void,
): Promise<Result> {
  for (let next = steps.next(); ; next = steps.next()) {
    if (next.done) return next.value;
    onPhase?.(next.value);
    await setImmediate();
  }
}
