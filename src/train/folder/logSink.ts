/** The sink that writes a run's logs into its output folder. */
import { join } from "node:path";
import type { LoggedFact, RunFact, RunSink } from "../facts/runFact.ts";
import { ANSWERS_FILE, appendRecords, DEFECTS_FILE, EVALS_FILE, FACTS_FILE, STEPS_FILE } from "./runLog.ts";
import { writeStepMemory } from "./stepMemory.ts";

/**
 * Appends steps, evaluations with their answers, defects and the other facts to the logs of a folder, and
 * writes the memory over a step. Throws UserError if the disk is full. Facts before the start wait for it:
 * until then the folder may hold another run.
 */
export function logSink(output: string): RunSink {
  const append = (file: string, records: readonly object[]): Promise<void> =>
    appendRecords(join(output, file), records);
  let early: LoggedFact[] | undefined = [];
  const log = async (fact: LoggedFact): Promise<void> => {
    if (!early) return append(FACTS_FILE, [fact]);
    early.push(fact);
    if (fact.fact !== "start") return;
    const facts = early;
    early = undefined;
    await append(FACTS_FILE, facts);
  };
  return {
    async take(fact: RunFact) {
      if (fact.fact === "memory") return writeStepMemory(output, fact.memory);
      if (fact.fact === "step") return append(STEPS_FILE, [fact.record]);
      if (fact.fact === "eval") {
        await append(ANSWERS_FILE, fact.answers); // first: an evaluation that is logged has its answers
        return append(EVALS_FILE, [fact.record]);
      }
      if (fact.fact === "defect") await append(DEFECTS_FILE, [{ step: fact.step, ...fact.defect }]);
      const logged = loggedFact(fact);
      if (logged) await log(logged);
    },
  };
}

/** Returns the fact as the log has it; undefined for facts that come many times a second. */
function loggedFact(fact: Exclude<RunFact, { fact: "step" | "eval" | "memory" }>): LoggedFact | undefined {
  if (fact.fact === "check" || fact.fact === "phase" || fact.fact === "microBatch") return undefined;
  if (fact.fact !== "start") return fact;
  const { stepsBefore: _, ...start } = fact; // they are in the log of steps
  return start;
}
