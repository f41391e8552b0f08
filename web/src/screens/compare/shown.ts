import type { RunHistory } from "../../live/runHistory.ts";
import type { Tone } from "../../parts/chart/model.ts";

/** A run with what tells its curves from the others'. */
export interface Shown {
  history: RunHistory;
  /** Name of its curves, different from all others'. */
  label: string;
  tone: Tone;
}
