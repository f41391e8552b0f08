/** The sink that writes a run's logs into its output folder. */
import { join } from "node:path";
import type { RunFact, RunSink } from "../facts/runFact.ts";
import { ANSWERS_FILE, appendRecords, DEFECTS_FILE, EVALS_FILE, STEPS_FILE } from "./runLog.ts";

/**
 * Appends steps, evaluations with their answers, and defects to the logs of a folder. Throws UserError if the
 * disk is full.
 */
export function logSink(output: string): RunSink {
  const append = (file: string, records: readonly object[]): Promise<void> =>
    appendRecords(join(output, file), records);
  return {
    async take(fact: RunFact) {
      if (fact.fact === "step") await append(STEPS_FILE, [fact.record]);
      else if (fact.fact === "defect") await append(DEFECTS_FILE, [{ step: fact.step, ...fact.defect }]);
      else if (fact.fact === "eval") {
        await append(ANSWERS_FILE, fact.answers); // first: an evaluation that is logged has its answers
        await append(EVALS_FILE, [fact.record]);
      }
    },
  };
}
