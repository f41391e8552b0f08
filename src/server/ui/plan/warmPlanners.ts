/** Keeps planners between questions: what one has tried need not be run again. */
import type { QuestionTools } from "../../../answer/question.ts";
import { type PlannedModel, Planner } from "../../../plan/planner.ts";
import { knownSpeed } from "../../../plan/time/calibration.ts";
import type { Card } from "../../../plan/time/cards.ts";
import type { Speed } from "../../../plan/time/stepTime.ts";
import { UNMEASURED } from "../../../train/machine/modelPlanner.ts";

/** Models whose planners are kept. Each dry run holds memory, so after many all planners are dropped. */
const MOST_MODELS = 4;
const MOST_RUNS = 3_000;

/**
 * Returns tools whose planners stay warm. `onDryRun` is called after each dry run. The speed of a CPU is not
 * measured here: that takes seconds in which no question is answered.
 */
export function warmTools(onDryRun: () => void): QuestionTools {
  const kept = new Map<string, Planner>();
  let runs = 0;
  const heard = (): void => {
    runs++;
    onDryRun();
  };
  return {
    cpuSpeed: (dtype) => knownSpeed(dtype) ?? UNMEASURED,
    plannerOf(model, speed) {
      if (runs > MOST_RUNS) {
        kept.clear();
        runs = 0;
      }
      const key = JSON.stringify({ ...model, target: model.target === "cpu" ? "cpu" : "card" });
      const known = kept.get(key);
      kept.delete(key); // the most recently used is the last
      const planner = known ?? watched(model, speed, heard);
      kept.set(key, planner);
      for (const oldest of kept.keys()) if (kept.size > MOST_MODELS) kept.delete(oldest);
      return model.target === "cpu" ? planner : planner.onCard(model.target as Card);
    },
  };
}

function watched(model: PlannedModel, speed: Speed | undefined, onDryRun: () => void): Planner {
  const planner = new Planner(model, speed);
  planner.watch(onDryRun);
  return planner;
}
