/**
 * A policy: how one micro-batch spends memory and time. Plain data, saved with a run, accepted back. No
 * choice in it changes a result by more than rounding, except the optimizer's precision.
 */
import { z } from "zod";
import { UserError } from "../errors.ts";
import type { ModelConfig } from "../models/family.ts";
import { type Place, type Places, WEIGHT_PLACES } from "../models/places.ts";
import { CARD_KERNELS } from "../nn/attention/kernels.ts";
import type { PloraWay } from "../nn/plora.ts";
import type { DType } from "../torch/dtypes.ts";

const LayerPolicy = z.strictObject({
  boundary: z.enum(["device", "host", "none"]).default("device").meta({
    help: "Where a layer's input waits for the backward pass. none: recomputed from the layer before.",
  }),
  keep: z.enum(["nothing", "middle", "attention", "all"]).default("nothing").meta({
    help: "Activations that are kept for the backward pass instead of recomputed. middle: the MLP's input. attention: also attention's inner values. all: also the MLP's.",
  }),
});

/** How one layer's activations are kept. */
export type LayerPolicy = z.output<typeof LayerPolicy>;

const RunOfLayers = LayerPolicy.extend({ count: z.int().positive() });

const WEIGHT_SOURCES = ["resident", "streamed"] as const;

/** Where the layers' weights lie, by their source. */
const LAYER_PLACES: Record<(typeof WEIGHT_SOURCES)[number], Place> = { resident: "device", streamed: "host" };

const WeightsPolicy = z.strictObject({
  source: z.enum(WEIGHT_SOURCES).default("resident").meta({
    help: "whether the layers' frozen weights stay on the device, or come from the host when their turn comes",
  }),
  aheadLayers: z
    .int()
    .nonnegative()
    .default(1)
    .meta({ help: "layers whose streamed weights are fetched while the one before computes" }),
});

const OptimizerPolicy = z.strictObject({
  place: z.enum(["device", "host"]).default("device").meta({
    help: "where the optimizer's state lies; host: it visits the device tile by tile for the update, and the factors are on the device in the computing precision only",
  }),
  precision: z
    .enum(["fp32", "8bit"])
    .default("fp32")
    .meta({ help: "of the optimizer's moments; 8bit changes results by more than rounding" }),
});

const place = z.enum(["device", "host"]).default("device");

export const Policy = z.strictObject({
  headGroups: z
    .int()
    .positive()
    .default(1)
    .meta({ help: "Number of groups of key/value heads. Attention computes one group after the other." }),
  mlpTileTokens: z.int().positive().default(2048).meta({ help: "Rows that the MLP computes at a time." }),
  lossChunkTokens: z
    .int()
    .positive()
    .default(256)
    .meta({ help: "Rows with labels whose logits exist at a time." }),
  visionBatchTiles: z
    .int()
    .positive()
    .default(4)
    .meta({ help: "Tiles that the vision tower computes at a time." }),
  attentionInput: z.enum(["kept", "recomputed"]).default("kept").meta({
    help: "whether attention's normalised input is held while its groups go by, or normalised again, in tiles of rows, for each of them",
  }),
  attention: z
    .enum(["measured", ...CARD_KERNELS])
    .default("measured")
    .meta({
      help: "the attention kernel on a card; measured: a run times those that the card has at its start and names the fastest, a plan takes flash attention where the card has it, else the memory-efficient one",
    }),
  plora: z.enum(["apart", "merged", "folded", "folded-merged"]).default("merged").meta({
    help: "whether PLoRA is multiplied apart on image rows (apart), or added to copies of the frozen weights that those rows go through, wherever a segment has enough of them for that to take fewer FLOPs, a copy for a segment (merged); or added to the frozen weights themselves as they are loaded, and taken off again on all other rows, apart (folded) or by copies (folded-merged): only for layers' weights that stay on the device and that the checkpoint does not hold quantised",
  }),
  reuseAttention: z.boolean().default(true).meta({
    help: "whether a recomputed layer's attention is recomputed once, and held while the MLP goes back, or twice",
  }),
  boundaryAhead: z.boolean().default(false).meta({
    help: "whether the input of the layer that goes back next comes from the host while one goes back: hides the transfer, for one more input on the device",
  }),
  layers: z
    .array(RunOfLayers)
    .default([])
    .meta({ help: "runs of alike layers, from the first; the last run goes on to the end" }),
  weights: WeightsPolicy.prefault({}).meta({ help: "where the layers' frozen weights come from" }),
  embeddings: place.meta({
    help: "where the embeddings lie; host: a step's rows are gathered there and copied",
  }),
  head: place.meta({ help: "where the head lies; host: fetched for the loss" }),
  vision: place.meta({ help: "where the vision tower lies; host: fetched while pictures are encoded" }),
  optimizer: OptimizerPolicy.prefault({}).meta({ help: "where and how precisely the optimizer works" }),
  gradients: z
    .enum(["fp32", "bf16"])
    .default("fp32")
    .meta({ help: "precision of the LoRA gradients that steps accumulate into" }),
});

export type Policy = z.output<typeof Policy>;

/**
 * Options that fix one choice of a policy each, for all layers if the choice is a layer's. Without an option,
 * the plan chooses.
 */
export const POLICY_OPTIONS = {
  head_groups: { policy: "headGroups", schema: choice(Policy.shape.headGroups) },
  mlp_tile: { policy: "mlpTileTokens", schema: choice(Policy.shape.mlpTileTokens) },
  loss_chunk: { policy: "lossChunkTokens", schema: choice(Policy.shape.lossChunkTokens) },
  vision_batch: { policy: "visionBatchTiles", schema: choice(Policy.shape.visionBatchTiles) },
  keep: { layer: "keep", schema: choice(LayerPolicy.shape.keep) },
  boundaries: {
    layer: "boundary",
    schema: LayerPolicy.shape.boundary.unwrap().exclude(["none"]).optional().meta({
      help: "Where the layers' inputs wait for the backward pass.",
    }),
  },
} as const satisfies Record<string, PolicyOption>;

type PolicyOption = { schema: z.ZodType } & ({ policy: keyof Policy } | { layer: keyof LayerPolicy });

export type PolicyOptionName = keyof typeof POLICY_OPTIONS;

export const POLICY_OPTION_NAMES = Object.keys(POLICY_OPTIONS) as PolicyOptionName[];

/** Returns the schema of a choice as an option without a default. */
function choice<S extends z.ZodType>(schema: z.ZodDefault<S>): z.ZodOptional<S> {
  return schema
    .unwrap()
    .optional()
    .meta({ ...schema.meta() });
}

/** Everything on the device, nothing kept but boundaries: small, and needs no planning. */
export const DEFAULT_POLICY: Policy = Policy.parse({});

interface PloraPolicy {
  /** Whether the model is loaded with PLoRA folded into its weights. */
  folded: boolean;
  /** How the branch is multiplied on the rows that are left to it. */
  branch: PloraWay;
}

const PLORA_POLICIES: Record<Policy["plora"], PloraPolicy> = {
  apart: { folded: false, branch: "apart" },
  merged: { folded: false, branch: "merged" },
  folded: { folded: true, branch: "apart" },
  "folded-merged": { folded: true, branch: "merged" },
};

/** Returns how a policy treats PLoRA. */
export function ploraOf({ plora }: Pick<Policy, "plora">): PloraPolicy {
  return PLORA_POLICIES[plora];
}

/** Returns the name of a treatment of PLoRA. */
export function ploraName({ folded, branch }: PloraPolicy): Policy["plora"] {
  if (!folded) return branch;
  return branch === "merged" ? "folded-merged" : "folded";
}

/** How a model must be loaded for a policy. Throws UserError where that contradicts itself. */
export function loadingOf(policy: Policy): { places: Places; folded: boolean } {
  refuseStreamedFold(policy);
  return { places: placesOf(policy), folded: ploraOf(policy).folded };
}

/** Returns whether PLoRA can be folded into the layers' weights where a policy has them. */
export function holdsFolded(policy: Policy): boolean {
  return !WEIGHT_PLACES[placesOf(policy).layers].mapsFiles;
}

function refuseStreamedFold(policy: Policy): void {
  if (!ploraOf(policy).folded || holdsFolded(policy)) return;
  throw new UserError(
    "The policy folds PLoRA into the layers' weights, which stay as they are where they are streamed.",
    { fix: 'Give it "plora": "merged" or "apart", or "weights": {"source": "resident"}.' },
  );
}

/** Where a model must lie for a policy. */
export function placesOf({ weights, embeddings, head, vision }: Policy): Places {
  return { layers: LAYER_PLACES[weights.source], embeddings, head, vision };
}

/**
 * Returns the dtype of the factors' copies on the device, if the optimizer keeps the factors in float32 on
 * the host. Computing in float32 needs no copies.
 */
export function factorCopies({ optimizer }: Policy, dtype: DType): DType | undefined {
  return optimizer.place === "host" && dtype !== "float32" ? dtype : undefined;
}

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
  refuseStreamedFold(policy);
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
