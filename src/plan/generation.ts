/** What an answer takes that a run generates in an evaluation, beside all that the run holds: the generation itself, on meta. */
import { generateOnMeta } from "../models/generate.ts";
import { type BatchShape, type Grid, plannedBatch } from "./batch.ts";
import { type Configuration, type DryRun, observe, openOnMeta } from "./dryRun.ts";

export interface AnswerShape {
  promptTokens: number;
  /** Grids of the prompt's pictures. */
  pictures: readonly Grid[];
  maxNewTokens: number;
}

export function dryAnswer(
  configuration: Omit<Configuration, "batch">,
  { promptTokens, pictures, maxNewTokens }: AnswerShape,
): DryRun {
  const batch: BatchShape = { samples: 1, sampleTokens: promptTokens, pictures, labelTokens: 0 };
  return observe({ ...configuration, batch }, (end) => {
    using run = openOnMeta({ ...configuration, batch });
    end("start");
    const visionBatch = configuration.policy.visionBatchTiles;
    generateOnMeta(run.model, run.lora, plannedBatch(batch), { maxNewTokens, visionBatch });
    end("answer");
  });
}
