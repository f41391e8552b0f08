/**
 * A policy: how one micro-batch spends memory and time. Plain data, saved with a run, accepted back. No
 * choice in it changes a result by more than rounding, except the optimizer's precision.
 */
import { z } from "zod";
import { UserError } from "../errors.ts";
import type { ModelConfig } from "../models/family.ts";
import type { Place, Places } from "../models/places.ts";
import { USUAL_MLP_TILE_TOKENS, USUAL_VISION_BATCH } from "../models/usualSizes.ts";
import { CARD_KERNELS } from "../nn/attention/cardKernels.ts";
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

const WEIGHT_SOURCES = ["resident", "streamed", "shared"] as const;

/** Where the layers' weights lie, by their source. */
const LAYER_PLACES: Record<(typeof WEIGHT_SOURCES)[number], Place> = {
  resident: "device",
  streamed: "host",
  shared: "shared",
};

const WeightsPolicy = z.strictObject({
  source: z.enum(WEIGHT_SOURCES).default("resident").meta({
    help: "Source of the layers' frozen weights. resident: they stay on the device. streamed: each layer comes from the host when its turn comes. shared: each of several ranks holds an equal share of every layer, and a layer is brought together when its turn comes.",
  }),
  aheadLayers: z.int().nonnegative().default(1).meta({
    help: "Number of layers whose streamed or shared weights are fetched ahead, while an earlier layer computes.",
  }),
});

const OptimizerPolicy = z.strictObject({
  place: z.enum(["device", "host"]).default("device").meta({
    help: "Where the optimizer's state lies. host: the state visits the device tile by tile for the update, and the device holds the factors in the computing precision only.",
  }),
  precision: z
    .enum(["fp32", "8bit"])
    .default("fp32")
    .meta({ help: "Precision of the optimizer's moments. 8bit changes results by more than rounding." }),
});

const place = z.enum(["device", "host", "shared"]).default("device");

export const Policy = z.strictObject({
  headGroups: z
    .int()
    .positive()
    .default(1)
    .meta({ help: "Number of groups of key/value heads. Attention computes one group after the other." }),
  mlpTileTokens: z
    .int()
    .positive()
    .default(USUAL_MLP_TILE_TOKENS)
    .meta({ help: "Rows that the MLP computes at a time." }),
  lossChunkTokens: z
    .int()
    .positive()
    .default(256)
    .meta({ help: "Rows with labels whose logits exist at a time." }),
  visionBatchTiles: z
    .int()
    .positive()
    .default(USUAL_VISION_BATCH)
    .meta({ help: "Tiles that the vision tower computes at a time." }),
  attentionInput: z.enum(["kept", "recomputed"]).default("kept").meta({
    help: "Attention's normalised input. kept: held for all head groups. recomputed: normalised again, in tiles of rows, for each group.",
  }),
  attention: z
    .enum(["measured", ...CARD_KERNELS])
    .default("measured")
    .meta({
      help: "Attention kernel on a card. measured: a run times the card's kernels at its start and uses the fastest; a plan assumes flash attention if the card has it, else the memory-efficient kernel.",
    }),
  plora: z.enum(["apart", "merged", "folded", "folded-merged"]).default("merged").meta({
    help: "How PLoRA, the model's own adapter for pictures, is computed. apart: as two small products on image rows. merged: added to a copy of the weight for a segment's image rows, if that takes fewer FLOPs. folded: added to the weights while they are loaded, and taken off on all other rows by small products. folded-merged: folded, and taken off by copies. Both kinds of folding need layers' weights that stay on the device and are not stored quantised.",
  }),
  reuseAttention: z.boolean().default(true).meta({
    help: "Whether a recomputed layer's attention is computed once and held during the MLP's backward pass (true), or computed twice (false).",
  }),
  boundaryAhead: z.boolean().default(false).meta({
    help: "Whether the next layer's input is fetched from the host during a layer's backward pass. This hides the transfer and needs room for one more input on the device.",
  }),
  layers: z.array(RunOfLayers).default([]).meta({
    help: "Runs of layers with the same choices, from the first layer on. The last run continues to the last layer.",
  }),
  weights: WeightsPolicy.prefault({}).meta({ help: "Source of the layers' frozen weights." }),
  embeddings: place.meta({
    help: "Where the embeddings lie. host: a step's rows are gathered there and copied. shared: each rank holds a share; they are brought together for a step's rows.",
  }),
  head: place.meta({
    help: "Where the output head lies. host: it is fetched for the loss. shared: each rank holds a share; it is brought together for the loss.",
  }),
  vision: place.meta({
    help: "Where the vision tower lies. host: it is fetched while pictures are encoded. shared: each rank holds a share; it is brought together while pictures are encoded.",
  }),
  optimizer: OptimizerPolicy.prefault({}).meta({ help: "Place and precision of the optimizer's state." }),
  gradients: z
    .enum(["fp32", "bf16"])
    .default("fp32")
    .meta({ help: "Precision of the accumulated LoRA gradients." }),
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
  return placesOf(policy).layers === "device"; // on the host they may be the mapped file, which nothing may change
}

function refuseStreamedFold(policy: Policy): void {
  if (!ploraOf(policy).folded || holdsFolded(policy)) return;
  throw new UserError(
    `The policy folds PLoRA into the layers' weights, but ${policy.weights.source} weights cannot be changed.`,
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

/**
 * Returns the policy of every layer of a model. sharers: ranks that share the rows, and so the heads. Throws
 * UserError if the policy does not fit the model.
 */
export function layerPolicies(policy: Policy, config: ModelConfig, sharers = 1): LayerPolicy[] {
  const kvHeads = config.kvHeads / sharers;
  if (kvHeads % policy.headGroups !== 0) {
    const whose = sharers === 1 ? "" : ` of each of the ${sharers} ranks that share a sample`;
    throw new UserError(
      `The policy has ${policy.headGroups} head groups, which do not divide ${kvHeads} kv heads${whose}.`,
      { fix: `Use a divisor of ${kvHeads}.` },
    );
  }
  refuseStreamedFold(policy);
  const runs = policy.layers.flatMap(({ count, ...layer }) => Array.from({ length: count }, () => layer));
  if (runs.length > config.layers) {
    throw new UserError(`The policy lists ${runs.length} layers; the model has ${config.layers}.`, {
      fix: "Shorten the runs in its list of layers.",
    });
  }
  const rest = runs.at(-1) ?? LayerPolicy.parse({});
  const layers = Array.from({ length: config.layers }, (_, layer) => runs[layer] ?? rest);
  if (layers[0]!.boundary === "none") {
    throw new UserError("The policy keeps no boundary of the first layer, so no layer could be recomputed.", {
      fix: 'Give the first layer the boundary "device" or "host".',
    });
  }
  return layers;
}
