/** The facts that a sweep reports while it goes. */
import type { SweepTable, Trial } from "../runs/sweepTable.ts";
import type { Slot } from "./devices.ts";
import type { Estimate } from "./estimate.ts";
import type { Rung } from "./halving.ts";
import type { StepDone } from "./runTrial.ts";

export type SweepFact =
  | { fact: "planning"; done: number; total: number }
  | ({ fact: "planned"; table: SweepTable; slots: readonly Slot[]; rungs: readonly Rung[] } & Estimate)
  /** A round of halving begins. */
  | { fact: "rung"; rung: number; rungs: readonly Rung[]; members: readonly Trial[] }
  | { fact: "begin"; trial: Trial; slot: Slot }
  | ({ fact: "step"; trial: Trial; slot: Slot } & StepDone & Estimate)
  /** `part`: a trial has ended a round. `end`: it has ended for good, at once or by falling behind. */
  | ({ fact: "part" | "end"; trial: Trial; isBest: boolean; isBehind: boolean } & Estimate)
  | { fact: "notice"; text: string };
