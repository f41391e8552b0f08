/** What an answer takes that a run generates in an evaluation, beside all that the run holds: the generation itself, on meta. */

import type { TileGrid } from "../../data/pictures/image.ts";
import { generateOnMeta } from "../../models/generate.ts";
import { type BatchShape, plannedBatch } from "./batchShapes.ts";
import { type Configuration, type DryRun, observe } from "./dryRun.ts";
import type { CommonParts } from "./sharedParts.ts";

export interface AnswerShape {
  promptTokens: number;
  /** Grids of the prompt's pictures. */
  pictures: readonly TileGrid[];
  maxNewTokens: number;
}

export function dryAnswer(
  configuration: Omit<Configuration, "batch">,
  { promptTokens, pictures, maxNewTokens }: AnswerShape,
  parts: CommonParts,
): DryRun {
  const batch: BatchShape = { samples: 1, sampleTokens: promptTokens, pictures, labelTokens: 0 };
  const asked = { ...configuration, batch };
  return observe(asked, ({ take, end }) => {
    const { model, making, mappedBytes } = parts.model(asked, take);
    const adapter = parts.adapter(asked, take);
    end("start", [making, adapter.making]);
    const visionBatch = configuration.policy.visionBatchTiles;
    generateOnMeta(model, adapter.lora, plannedBatch(batch), { maxNewTokens, visionBatch });
    end("answer");
    return { mappedBytes };
  });
}
