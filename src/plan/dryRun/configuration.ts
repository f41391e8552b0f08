/** A configuration that a dry run tries, as plain data. */
import type { ModelConfig } from "../../models/family.ts";
import type { Place } from "../../models/places.ts";
import type { Bases } from "../../models/precision/bases.ts";
import type { Policy } from "../../step/policy.ts";
import { ALONE, type Peers, plannedPeers } from "../../torch/peers/peers.ts";
import type { Card } from "../time/cards.ts";
import type { BatchShape, ExactShape } from "./batchShapes.ts";

/** The LoRA factors of a run. */
export interface LoraShape {
  rank: number;
  /** Ranks by module name, for modules whose rank differs. */
  ranks?: Readonly<Record<string, number>>;
  dropout: number;
  /** A regular expression over the names of modules. */
  targets: string;
}

/** One of several ranks, as a plan knows it. */
export interface RankOf {
  rank: number;
  /** Ranks of all machines. */
  count: number;
  /** Ranks of this rank's machine, which share the host's memory. */
  perMachine: number;
}

/**
 * One configuration to try: a model in its precisions, factors, a micro-batch and a policy, on this machine's
 * CPU or on a card.
 */
export interface Configuration extends Bases {
  model: ModelConfig;
  dtype: "float32" | "bfloat16" | "float16";
  lora: LoraShape;
  batch: BatchShape | ExactShape;
  policy: Policy;
  target: "cpu" | Card;
  /**
   * Parts that the checkpoint stores in fewer bits. Nothing can be folded into them. On the host they are
   * mapped from the file.
   */
  stored?: Bases;
  /**
   * Whether the other weights on the host are mapped from the file, instead of memory of the host pool. True
   * if the file has the computing dtype.
   */
  mapsWeights: boolean;
  /** Place of gradient accumulation's copy of the gradients; undefined for one micro-batch a step. */
  gradientCopy?: Place | undefined;
  /** Whether gradients are added up after each round of micro-batches, which needs no copy of them. */
  exactSum?: boolean | undefined;
  /** Which rank is planned; undefined: a process by itself. */
  ranks?: RankOf | undefined;
  /**
   * Ranks that share the rows of each micro-batch, and which of them is planned; undefined: nobody shares
   * them.
   */
  sharers?: Pick<RankOf, "rank" | "count"> | undefined;
}

/** Returns the doubles of the ranks that share the rows of each micro-batch. */
export function sharersOf({ sharers }: Pick<Configuration, "sharers">): Peers {
  return sharers ? plannedPeers(sharers.rank, sharers.count) : ALONE;
}
