/** The answer of `lorafit plan` as plain JSON. Text, page and the record for scripts are functions of it. */

import type { ModelConfig, TrainedSizes } from "../models/family.ts";
import type { Base } from "../models/precision/bases.ts";
import type { Kernel } from "./attention.ts";
import type { CommonCards } from "./commonCards.ts";
import type { Details } from "./details.ts";
import type { OfficialSummary } from "./official.ts";
import type { PlanOptions } from "./options.ts";
import type { Way } from "./otherWays.ts";
import type { PageFacts } from "./pageFacts.ts";
import type { RanksSummary } from "./ranks.ts";
import type { Solved } from "./solved.ts";
import type { FullSummary, PlanSummary } from "./summary.ts";

export interface Answer {
  asked: Asked;
  /** The recommended plan: the fastest that fits; the leanest if none fits, or if there is no limit. */
  plan: FullSummary;
  /** The plan that needs the least device memory. */
  least: PlanSummary;
  /** The fastest plan, if there is no limit on device memory. */
  fastest?: PlanSummary;
  /** Result of --solve. */
  solved?: Solved;
  /** The official schedule at the same sizes, on a card. */
  official?: OfficialSummary;
  /** Memory and link of several ranks, and what they buy. */
  ranks?: RanksSummary;
  /** The attention kernel that a card will use. */
  attention?: Kernel;
  /** Plans for common cards, if neither a card nor its memory is given. */
  cards?: CommonCards;
  /** Changes of one setting each with which something fits, if nothing does. */
  waysOut?: Way[];
  /** Policies from fast to lean, for --compare, --explain and --html. */
  alternatives?: PlanSummary[];
  /** For --explain and --html. */
  details?: Details;
  /** For --html. */
  page?: PageFacts;
}

/** The question, in plain values. */
export interface Asked {
  options: PlanOptions;
  model: { config: ModelConfig; base: string; visionBase: Base; trained: TrainedSizes };
  device: AskedCard | AskedCpu;
  /** Undefined values are no limits. */
  limits: { deviceBytes?: number; hostBytes?: number; sumBytes?: number };
}

export interface AskedCard {
  kind: "card";
  title: string;
  /** False for a card that stands for any other with as much memory. */
  isNamed: boolean;
  isHere: boolean;
  /** All of the card's memory. */
  totalBytes: number;
  marginBytes: number;
  note?: string;
}

export interface AskedCpu {
  kind: "cpu";
  /** Reason why times may be wrong. */
  doubt?: string;
}
