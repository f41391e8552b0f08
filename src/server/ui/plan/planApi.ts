/**
 * Types of the Plan screen's API.
 *
 * | route                 | returns                                                                |
 * | --------------------- | ---------------------------------------------------------------------- |
 * | GET /api/plan/choices | PlanChoices                                                            |
 * | POST /api/plan        | a stream of PlanReply, a JSON line each; the body is a PlanQuestion    |
 * | POST /api/plan/sizes  | a stream of PlanReply with cells; the body is a PlanQuestion           |
 * | POST /api/plan/frees  | a PlanReply with what frees memory; the body is a PlanQuestion         |
 *
 * A closed connection cancels its question.
 */
import type { FreeingChange } from "../../../answer/freeing.ts";
import type { Way } from "../../../answer/otherWays.ts";
import type { SizedWorkload } from "../../../plan/planner.ts";
import type { Policy } from "../../../step/policy.ts";

export interface PlanQuestion {
  /** Options of `lorafit plan` and `lorafit train`; those that a plan does not depend on are ignored. */
  options: Record<string, unknown>;
  /** Policy of the plan that the page shows now. It is planned first at the new sizes. */
  policy?: unknown;
}

/**
 * kept: the policy that was shown before, at the new sizes, perhaps with fewer kept layers. leanest: the
 * policy that needs the least memory. fastest: the answer, which is the fastest policy that fits, or the
 * leanest if none fits.
 */
export type PlanStage = "kept" | "leanest" | "fastest";

/** The option that limits a model's pictures, and its values; the first reply to every question. */
export interface PictureChoice {
  /** The option's name: hd_num. */
  option: string;
  unit: string;
  default: number;
  /** Values of a slider. */
  steps: number[];
  /** Values of the table of sizes. */
  usual: number[];
}

export type PlanReply =
  | { kind: "pictures"; pictures: PictureChoice }
  | { kind: "plan"; stage: PlanStage; plan: PlanView }
  /** The official recipe at the same sizes; absent for a CPU. */
  | { kind: "official"; official: OfficialView }
  /** Changes of one setting each with which something fits, if nothing does. */
  | { kind: "ways"; ways: Way[] }
  /** Changes of one setting each that free memory, those that free most first. */
  | { kind: "frees"; changes: FreeingChange[] }
  | SizeCell
  | { kind: "problem"; error: string; fix?: string };

/** Least device memory at one pair of sizes. */
export interface SizeCell {
  kind: "cell";
  /** Limit of a picture's tokens, by the model's own option. */
  pictureLimit: number;
  maxLength: number;
  /** Null if a picture would leave no token to learn. */
  bytes: number | null;
}

export interface MemoryPart {
  /** A category, `context` or `allocator`. */
  name: string;
  title: string;
  bytes: number;
}

export interface PlanView {
  fits: boolean;
  deviceBytes: number;
  hostBytes: number;
  /** Parts of deviceBytes at its peak, without those that hold nothing. */
  parts: MemoryPart[];
  /** Absent without a limit. */
  limitBytes?: number;
  hostLimitBytes?: number;
  /** Name of the device: "NVIDIA GeForce RTX 4090". */
  device: string;
  isCard: boolean;
  workload: SizedWorkload;
  policy: Policy;
  /** Measures taken to save memory or time, in words. */
  measures: string[];
  /** Tokens of a micro-batch. */
  tokens: number;
  /** Time of a step with all its micro-batches; absent for a CPU whose speed is not known. */
  stepMs?: number;
  /** A `lorafit train` line that does this, and the same as a configuration. */
  command: string;
  yaml: string;
}

export interface OfficialView {
  deviceBytes: number;
  fits: boolean;
  parts: MemoryPart[];
}

/** Choices of the Plan screen. */
export interface PlanChoices {
  cards: { name: string; title: string; memoryBytes: number }[];
  /** Models that need no files, and model folders that runs below FOLDER have used. */
  models: string[];
  bases: string[];
  /** Device of this machine, as a run would choose it. */
  here: { device: "cuda" | "cpu"; gpu?: string };
  defaults: { maxLength: number; rank: number; accumulation: number };
  /** Every option that limits pictures. */
  limits: string[];
  /** Those of the first model. */
  pictures: PictureChoice;
  /** Sizes across the table. */
  maxLengths: number[];
}
