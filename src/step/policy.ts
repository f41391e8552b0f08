/** A policy: how one micro-batch spends memory and time. Plain data, saved with a run, accepted back; no choice in it changes a result. */
import { z } from "zod";
import { UserError } from "../errors.ts";
import type { ModelConfig } from "../models/spec.ts";
import { DROPOUT_BLOCK_ROWS } from "../nn/dropout.ts";

const LayerPolicy = z.strictObject({
  boundary: z
    .enum(["device", "host", "none"])
    .default("device")
    .meta({ help: "where the layer's input waits for the backward; none: recomputed from the layer before" }),
  keep: z.enum(["nothing", "middle", "attention", "all"]).default("nothing").meta({
    help: "what of the layer's forward is kept instead of recomputed: the MLP's input (middle), also the attention's inner values, also the MLP's",
  }),
});

/** How one layer's activations are kept. */
export type LayerPolicy = z.output<typeof LayerPolicy>;

const RunOfLayers = LayerPolicy.extend({ count: z.int().positive() });

export const Policy = z.strictObject({
  headGroups: z
    .int()
    .positive()
    .default(1)
    .meta({ help: "groups of kv heads that attention takes one after the other" }),
  mlpTileTokens: z
    .int()
    .positive()
    .multipleOf(DROPOUT_BLOCK_ROWS)
    .default(2048)
    .meta({ help: "rows that the MLP takes at a time" }),
  lossChunkTokens: z.int().positive().default(256).meta({ help: "label rows whose logits exist at a time" }),
  visionBatchTiles: z
    .int()
    .positive()
    .default(4)
    .meta({ help: "tiles that the vision tower takes at a time" }),
  reuseAttention: z.boolean().default(true).meta({
    help: "whether a recomputed layer's attention is recomputed once, and held while the MLP goes back, or twice",
  }),
  layers: z
    .array(RunOfLayers)
    .default([])
    .meta({ help: "runs of alike layers, from the first; the last run goes on to the end" }),
});

export type Policy = z.output<typeof Policy>;

/** Everything on the device, nothing kept but boundaries: small, and needs no planning. */
export const DEFAULT_POLICY: Policy = Policy.parse({});

/** The policy of every layer of a model. Throws UserError where the policy does not fit the model. */
export function layerPolicies(policy: Policy, config: ModelConfig): LayerPolicy[] {
  if (config.kvHeads % policy.headGroups !== 0) {
    throw new UserError(
      `The policy has ${policy.headGroups} head groups, which do not divide ${config.kvHeads} kv heads.`,
      {
        fix: `Use a divisor of ${config.kvHeads}.`,
      },
    );
  }
  const runs = policy.layers.flatMap(({ count, ...layer }) => Array.from({ length: count }, () => layer));
  if (runs.length > config.layers) {
    throw new UserError(`The policy speaks of ${runs.length} layers; the model has ${config.layers}.`, {
      fix: "Shorten the runs in its list of layers.",
    });
  }
  const rest = runs.at(-1) ?? LayerPolicy.parse({});
  const layers = Array.from({ length: config.layers }, (_, layer) => runs[layer] ?? rest);
  if (layers[0]!.boundary === "none") {
    throw new UserError(
      "The policy keeps no boundary of the first layer, so nothing could be recomputed from it.",
      {
        fix: 'Give the first layer the boundary "device" or "host".',
      },
    );
  }
  return layers;
}
