/**
 * Plans the loss of a sample that a run only evaluates, together with everything that the run holds. The
 * evaluation's own step runs on meta.
 */
import { evalStep } from "../../step/step.ts";
import { layoutFor, plannedBatch } from "./batchShapes.ts";
import { type Configuration, sharersOf } from "./configuration.ts";
import { type DryRun, observe } from "./dryRun.ts";
import type { CommonParts } from "./sharedParts.ts";

export function dryLoss(configuration: Configuration, parts: CommonParts): DryRun {
  const { policy, batch } = configuration;
  return observe(configuration, ({ take, end }) => {
    const { model, making, mappedBytes } = parts.model(configuration, take);
    const adapter = parts.adapter(configuration, take);
    end("start", [making, adapter.making]);
    const sharers = sharersOf(configuration);
    const planned = plannedBatch(batch, layoutFor(model, policy, sharers));
    for (const _ of evalStep(model, adapter.lora, planned, policy, { sharers }));
    end("evaluation");
    return { mappedBytes };
  });
}
