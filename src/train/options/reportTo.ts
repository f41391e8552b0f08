/** The trackers that a run can report to, by the names of transformers' --report_to. */
import { z } from "zod";
import { group } from "../../options.ts";

export const TRACKERS = ["tensorboard", "mlflow"] as const;
export type Tracker = (typeof TRACKERS)[number];

export const reportOptions = group("Checkpoints and evaluation", {
  report_to: z
    .union([z.string(), z.array(z.string())])
    .default([])
    .transform((given, context): Tracker[] => {
      const names = [given].flat().flatMap((text) => text.split(",").map((name) => name.trim()));
      const asked = names.filter((name) => name !== "" && name !== "none");
      if (!asked.every(isTracker)) context.addIssue({ code: "custom", message: "no such tracker" });
      return [...new Set(asked.filter(isTracker))];
    })
    .meta({
      help: "Trackers that get the run's numbers: tensorboard (event files in the output folder) and mlflow (the server that MLFLOW_TRACKING_URI names), separated by commas. Default: none.",
      value: "NAME",
      takes: "tensorboard, mlflow, both with a comma, or none",
      advice: "Other trackers are not there. Every step is also a line of steps.jsonl in the output folder.",
    }),
});

function isTracker(name: string): name is Tracker {
  return (TRACKERS as readonly string[]).includes(name);
}
