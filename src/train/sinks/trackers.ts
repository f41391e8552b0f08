/** The sinks that --report-to asks for. */
import type { RunSink } from "../facts/runFact.ts";
import type { Tracker } from "../options/reportTo.ts";
import { mlflowSink } from "./mlflow/mlflow.ts";
import { mlflowSettings } from "./mlflow/settings.ts";
import { tensorBoardSink } from "./tensorboard/tensorBoard.ts";

/** The run that a sink reports. */
interface Reporting {
  output: string;
  notice: (text: string) => void;
}

const SINKS: Record<Tracker, (run: Reporting) => RunSink> = {
  tensorboard: ({ output }) => tensorBoardSink(output),
  mlflow: (run) => mlflowSink({ ...run, settings: mlflowSettings() }),
};

/** Makes the sinks. Throws UserError for a tracker that nobody has set up. */
export function trackerSinks(trackers: readonly Tracker[], run: Reporting): RunSink[] {
  return trackers.map((tracker) => SINKS[tracker](run));
}
