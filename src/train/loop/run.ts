/**
 * A run in four groups, so that a function asks for the groups that it needs: what was asked, planned and
 * loaded, and how far it is.
 */
import type { ImagePool } from "../../data/pictures/imagePool.ts";
import type { PreparedSample } from "../../data/samples/validate.ts";
import type { Sampler } from "../../data/stream/drawOrder.ts";
import type { Packing } from "../../data/stream/packing.ts";
import type { Tokenizer } from "../../data/text/tokenizer.ts";
import type { Lora } from "../../models/lora.ts";
import type { Model } from "../../models/weights.ts";
import type { Planner } from "../../plan/planner.ts";
import type { GradientBackup } from "../../step/optimizer/gradientBackup.ts";
import type { GradientSum } from "../../step/optimizer/gradientSum.ts";
import type { AdamW } from "../../step/optimizer/optimizer.ts";
import type { Peers } from "../../torch/peers/peers.ts";
import type { Demand } from "../data/memoryDemand.ts";
import type { FactStream } from "../facts/factStream.ts";
import type { TrainerState } from "../folder/checkpoints.ts";
import type { StepRecord } from "../folder/runLog.ts";
import type { TrainOptions } from "../options/options.ts";
import type { Schedule } from "../options/schedule.ts";
import type { RunPlanning } from "../planning/planRun.ts";

export interface Run {
  inputs: RunInputs;
  planned: RunPlanning;
  loaded: RunLoaded;
  progress: RunProgress;
  facts: FactStream;
  /** The processes that train together; ALONE for one. */
  peers: Peers;
}

/** The checked options and data of a run. */
export interface RunInputs {
  /** With every default and the machine's choices in place. */
  options: TrainOptions;
  data: TrainingData;
  planner: Planner;
  demand: Demand;
  schedule: Schedule;
}

export interface TrainingData {
  samples: PreparedSample[];
  sampler: Sampler;
  packing: Packing;
  /** Draws of the whole run; Infinity if steps are counted. */
  draws: number;
  /** Samples to evaluate on; empty without eval_data. */
  evalSamples: PreparedSample[];
  tokenizer: Tokenizer | undefined;
  pictures: ImagePool;
}

/** Tensors of a run. */
export interface RunLoaded {
  model: Model;
  lora: Lora;
  optimizer: AdamW;
  /** The gradients before the micro-batch that is being computed. */
  backup: GradientBackup;
  /** Adds up the gradients of ranks; undefined for a process that needs none. */
  sum: GradientSum | undefined;
}

/** How far a run is. */
export interface RunProgress {
  state: TrainerState;
  /** Records of the steps that earlier parts of the run have done. */
  stepsBefore: readonly StepRecord[];
  /** Folder of the last complete checkpoint. */
  checkpoint: string | undefined;
  /** Micro-batches of the step that this process computes. */
  ownMicroBatches: number;
  /** Whether the state is that of the last checkpoint. */
  saved: boolean;
}
