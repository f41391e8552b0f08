/** Long computations that let the event loop have its turn. */
import { setImmediate } from "node:timers/promises";

/** Runs a generator to its end, and gives way at every yield. If onPhase throws, the generator is closed. */
export async function drive<Phase, Result>(
  steps: Generator<Phase, Result>,
  onPhase?: (phase: Phase) => void,
): Promise<Result> {
  try {
    for (let next = steps.next(); ; next = steps.next()) {
      if (next.done) return next.value;
      onPhase?.(next.value);
      await setImmediate();
    }
  } finally {
    steps.return(undefined as Result); // does nothing at its end
  }
}
