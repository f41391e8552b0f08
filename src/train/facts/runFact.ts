/**
 * The facts that a run reports while it goes, one stream of plain data: JSON.parse(JSON.stringify(fact))
 * gives the same fact. The terminal line, the logs in the output folder, and any program of the user's are
 * sinks that take them in order.
 *
 * Units: `...Bytes` are bytes, `...Ms` are milliseconds, `...Ratio` are shares from 0 to 1, `tokens` counts
 * text and picture tokens.
 */
import type { SampleSource } from "../../data/samples/sample.ts";
import type { Place } from "../../models/places.ts";
import type { StepPhase } from "../../step/phases.ts";
import type { Policy } from "../../step/policy.ts";
import type { Category, Pool } from "../../torch/device.ts";
import type { AnswerRecord, EvalRecord, StepRecord } from "../folder/runLog.ts";
import type { StepMemory } from "../folder/stepMemory.ts";
import type { TrainOptions } from "../options/options.ts";
import type { Defect, DefectTrace, StepPeaks } from "./peaks.ts";

/** Something that has happened in a run, when it is reported. */
export type RunFact = { atMs: number } & Fact;

/** The facts in the order in which a run begins to report them. */
export type Fact =
  | CheckFact
  | PlanFact
  | StartFact
  | NoticeFact
  | PhaseFact
  | MicroBatchFact
  | LeanerFact
  | StepFact
  | MemoryFact
  | DefectFact
  | EvalFact
  | CheckpointFact
  | EndFact;

/**
 * A line of facts.jsonl: a fact of the run that has no log of its own. Each part of a run, from a start or a
 * resume, has its start; its plan and notices come before.
 */
export type LoggedFact =
  | Exclude<RunFact, { fact: "check" | "phase" | "microBatch" | "step" | "eval" | "memory" | "start" }>
  | ({ atMs: number } & Omit<StartFact, "stepsBefore">);

/**
 * Takes the facts of a run. A promise is waited for, except after `phase`, `notice` and `leaner`; an error
 * ends the run.
 */
export interface RunSink {
  take(fact: RunFact): void | Promise<void>;
}

/** Samples are being checked, before the run is planned. */
export interface CheckFact {
  fact: "check";
  done: number;
  total: number;
}

/** The run is planned; nothing heavy is loaded yet. */
export interface PlanFact {
  fact: "plan";
  /** The memory limits that the plan keeps; a limit that nobody has set is absent. */
  limits: { deviceBytes?: number; hostBytes?: number };
  /** Tokens of the largest micro-batch, and the sample with the most tokens. */
  mostTokens: number;
  longest: NamedSample;
  /** The step of the largest micro-batch; absent if the policy is the user's, or nothing limits memory. */
  step?: PlannedMemory & {
    /** Predicted time of one micro-batch. */
    microBatchMs: number;
    /** Measures taken to fit, in words. */
    concessions: string[];
  };
  /** The copy of the gradients that undoes a micro-batch, if a step has several. */
  gradientCopy?: { place: Place; bytes: number };
  /**
   * Policies from the shortest length class to the longest; upToTokens is null if one policy is for all
   * lengths.
   */
  policies: { upToTokens: number | null; policy: Policy }[];
  evaluation?: PlannedEvaluation;
}

/** Memory of a step, a loss or an answer, with all that the run holds beside it. */
export interface PlannedMemory {
  /**
   * Bytes that count against the device memory limit: on a card with the context, workspaces and rounding.
   */
  limitedBytes: number;
  /** Peak of the device's pool, and of the host's. */
  deviceBytes: number;
  hostBytes: number;
  /** Frozen weights that are read from the checkpoint's mapped files. */
  mappedBytes: number;
  /** The device's pool at its peak, without categories that hold nothing. */
  byCategory: Partial<Record<Category, number>>;
}

/** Memory that evaluations need. */
export interface PlannedEvaluation {
  /** Samples to evaluate. */
  samples: number;
  /** The loss of the longest sample that fits. */
  loss?: NamedSample & PlannedMemory & { concessions: string[] };
  /** The answer that needs the most memory among those that fit. */
  answer?: NamedSample & PlannedMemory;
  /** Samples whose loss does not fit; the smallest of them. */
  skipped?: { count: number; smallest: NamedSample & PlannedMemory };
  /** Answers that do not fit and count as wrong, out of all; the smallest of them. */
  unanswered?: { count: number; total: number; smallest: NamedSample & PlannedMemory };
}

export interface NamedSample {
  sample: SampleSource;
  tokens: number;
}

/** The model is loaded, and the first step begins. */
export interface StartFact {
  fact: "start";
  /** With every default in place. */
  options: TrainOptions;
  /** Optimizer steps done before, and of the whole run. */
  step: number;
  totalSteps: number;
  /** Samples to train on. */
  samples: number;
  /** Records of the steps that earlier parts of the run have done; none in a new run. */
  stepsBefore: readonly StepRecord[];
}

/** Something that the user should know. */
export interface NoticeFact {
  fact: "notice";
  text: string;
  /** Set for what scripts are told as well: a card is left idle. */
  about?: "idleCard";
}

/** A part of a micro-batch's work is queued: so many tiles or layers of a phase. */
export interface PhaseFact {
  fact: "phase";
  step: number;
  microBatch: number;
  phase: StepPhase;
}

/** A micro-batch is done. */
export interface MicroBatchFact {
  fact: "microBatch";
  /** Both from 1. */
  step: number;
  microBatch: number;
  /** Mean over its labels; null if it is not a finite number, which ends the run. */
  loss: number | null;
  samples: SampleSource[];
  tokens: number;
  labelTokens: number;
  pictures: number;
  /** Time to queue it and to wait for its result; on a card the micro-batch before may still run in it. */
  elapsedMs: number;
  /** Time for which the device had nothing to do because data was missing. */
  dataWaitMs: number;
}

/** Memory ran out, and the run continues in less of it. */
export interface LeanerFact {
  fact: "leaner";
  /** The step that it happened in, and what did not fit: a micro-batch, an evaluation or an update. */
  step: number;
  subject: string;
  /** The message of the failed allocation. */
  cause: string;
  pool: Pool;
  requestedBytes: number;
  /** Measures taken from here on, in words. */
  concessions: string[];
  /** The whole fact as one sentence or two for people. */
  text: string;
}

/** An optimizer step is done. */
export interface StepFact {
  fact: "step";
  record: StepRecord;
  /** Steps of the run; fewer than planned if pictures are gone by now. */
  totalSteps: number;
  /** Measured and planned peaks of both pools, by category. */
  peaks: StepPeaks;
}

/** The memory over a step was recorded: of the first one, and of each whose last micro-batch is larger. */
export interface MemoryFact {
  fact: "memory";
  memory: StepMemory;
}

/** A step took more memory than its plan: a defect of lorafit. */
export interface DefectFact {
  fact: "defect";
  step: number;
  defect: Defect;
  /** Where its allocations are recorded; absent if another defect of its kind shows as much. */
  trace?: DefectTrace;
}

/** An evaluation is done. */
export interface EvalFact {
  fact: "eval";
  record: EvalRecord;
  /** Whether its loss, or the metric that the run's options name, is the best so far. */
  best: boolean;
  /** The loss of each sample. */
  losses: { sample: SampleSource; loss: number; labelTokens: number }[];
  /** The model's answers beside the expected ones. */
  answers: AnswerRecord[];
}

/** A checkpoint is written. */
export interface CheckpointFact {
  fact: "checkpoint";
  step: number;
  folder: string;
}

/** The run has ended. `failed`: with an error, which train() throws. */
export type EndFact =
  | {
      fact: "end";
      ended: "finished";
      step: number;
      adapter: string;
      /** Set if the run ended before its last step: the message says why. */
      reason?: "early_stop";
      message?: string;
    }
  | { fact: "end"; ended: "interrupted"; step: number; checkpoint: string; reason?: "stop_at_step" }
  | { fact: "end"; ended: "failed"; message: string; fix?: string };
