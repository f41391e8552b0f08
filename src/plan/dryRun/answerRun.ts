/**
 * Plans the memory of an answer that a run generates in an evaluation, together with everything that the run
 * holds. The generation itself runs on meta.
 */
import { generateOnMeta } from "../../models/generation/generate.ts";
import { type ExactShape, layoutFor, plannedBatch } from "./batchShapes.ts";
import type { Configuration } from "./configuration.ts";
import { type DryRun, observe } from "./dryRun.ts";
import type { CommonParts } from "./sharedParts.ts";

export interface AnswerShape {
  prompt: ExactShape;
  maxNewTokens: number;
}

export function dryAnswer(
  configuration: Omit<Configuration, "batch">,
  { prompt, maxNewTokens }: AnswerShape,
  parts: CommonParts,
): DryRun {
  const { policy } = configuration;
  const asked = { ...configuration, batch: prompt };
  return observe(asked, ({ take, end }) => {
    const { model, making, mappedBytes } = parts.model(asked, take);
    const adapter = parts.adapter(asked, take);
    end("start", [making, adapter.making]);
    const visionBatch = policy.visionBatchTiles;
    const batch = plannedBatch(prompt, layoutFor(model, policy));
    generateOnMeta(model, adapter.lora, batch, { maxNewTokens, visionBatch });
    end("answer");
    return { mappedBytes };
  });
}
