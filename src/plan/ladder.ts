/**
 * Policies from fast to lean. Each rung makes one more concession than the rung before, the cheapest in time
 * first. A run that is out of memory can therefore step down from any rung.
 */
import { UserError } from "../errors.ts";
import type { ModelConfig } from "../models/family.ts";
import { type LayerPolicy, layerPolicies, Policy, ploraName, ploraOf } from "../step/policy.ts";
import type { Category } from "../torch/device.ts";

/** The choices of a policy that a user may fix. */
export interface FixedPolicy {
  weights?: Policy["weights"]["source"] | undefined;
  /** Places and precisions of a policy. A run cannot change them after its start. */
  places?: RunPlaces | undefined;
  /** Whether the run's model was loaded with PLoRA folded into the weights. Undefined: whatever is faster. */
  folded?: boolean | undefined;
  /** The attention kernel that a run has chosen. */
  attention?: Policy["attention"] | undefined;
}

/** The parts of a policy that decide how a model, its factors and its optimizer are created. */
export type RunPlaces = Pick<Policy, (typeof RUN_PLACES)[number]>;
const RUN_PLACES = ["weights", "embeddings", "head", "vision", "optimizer", "gradients"] as const;

export function runPlaces(policy: Policy): RunPlaces {
  return Object.fromEntries(RUN_PLACES.map((part) => [part, policy[part]])) as RunPlaces;
}

/**
 * Rows that the MLP processes at a time if there is room. A weight in 4 or 8 bits is dequantised once for all
 * of these rows.
 */
export const MOST_MLP_TILE_TOKENS = 8192;

/**
 * Returns the fastest policy without kept layers. It keeps nothing except boundaries, and its parts are as
 * large as is useful. Only kept layers can use more memory.
 */
function fastPolicy({ weights = "resident", places, folded = false, attention }: FixedPolicy = {}): Policy {
  return Policy.parse({
    headGroups: 1,
    mlpTileTokens: MOST_MLP_TILE_TOKENS,
    lossChunkTokens: 1024,
    visionBatchTiles: 8,
    plora: ploraName({ folded, branch: "apart" }), // merged or folded if the search finds that faster, and it fits
    weights: { source: weights },
    ...(weights === "shared" && { embeddings: "shared", head: "shared", vision: "shared" }),
    attention,
    ...places,
  });
}

/** Returns the leanest policies. Which of them lets the most fit depends on the host's memory. */
export function leanestPolicies(config: ModelConfig, fixed: FixedPolicy = {}): Policy[] {
  const leanest = policyLadder(config, fixed).at(-1)!;
  // The backward pass begins with the last layer, whose attention is kept. There is no room to restore its
  // input as well.
  const every = (layers: number, boundary: "host" | "device"): Policy => ({
    ...leanest,
    layers: runsOf(
      Array.from({ length: config.layers }, (_, layer) => ({
        boundary: layer % layers === 0 || layer === config.layers - 1 ? boundary : "none",
        keep: "nothing",
      })),
    ),
  });
  return [
    leanest,
    ...[2, 4, 8].map((layers) => every(layers, "host")),
    ...[1, 4].map((layers) => every(layers, "device")),
  ];
}

/** Returns the policies to choose from, from fast to lean. */
export function policyLadder(config: ModelConfig, fixed: FixedPolicy = {}): Policy[] {
  const rungs: Policy[] = [];
  for (let rung: Policy | undefined = fastPolicy(fixed); rung; rung = leanerPolicy(rung, config, fixed))
    rungs.push(rung);
  return rungs;
}

/**
 * Returns the policy with the next concession; undefined if none is left. short: the category of a failed
 * allocation; the concession must help that part of the step.
 */
export function leanerPolicy(
  policy: Policy,
  config: ModelConfig,
  fixed: FixedPolicy = {},
  short?: Category,
): Policy | undefined {
  const { own, only = false } = (short && CONCESSIONS_FOR[short]) ?? { own: [] };
  for (const change of only ? own : [...own, ...CONCESSIONS]) {
    const changed = change(policy, config, fixed);
    const leaner = changed && { ...changed, ...fixed.places };
    if (leaner && JSON.stringify(leaner) !== JSON.stringify(policy) && isReal(leaner, config)) return leaner;
  }
  return undefined;
}

/** Returns the policy with the first `count` layers keeping values of the forward pass. */
export function keepingLayers(
  policy: Policy,
  config: ModelConfig,
  count: number,
  keep: LayerPolicy["keep"],
): Policy {
  const layers = layerPolicies(policy, config).map((layer, index) =>
    index < count ? { ...layer, keep } : layer,
  );
  return { ...policy, layers: runsOf(layers) };
}

/** A step to a leaner policy, which a run takes if memory runs out. */
export interface StepDown {
  /** Maximum tokens of the length class in which memory ran out. */
  tokens: number;
  /** The category of the allocation that failed; undefined if it is unknown. */
  short?: Category | undefined;
}

type Change = (policy: Policy, config: ModelConfig, fixed: FixedPolicy) => Policy | undefined;

/** The least rows of the loss that are worth their own pass. */
const LEAST_LOSS_CHUNK_TOKENS = 128;

/**
 * Concessions that help one part of the step most. only: nothing else helps that part, because pictures are
 * encoded before everything else.
 */
const CONCESSIONS_FOR: Partial<Record<Category, { own: readonly Change[]; only?: boolean }>> = {
  visionFeatures: {
    own: [(policy) => ({ ...policy, visionBatchTiles: Math.ceil(policy.visionBatchTiles / 2) })],
    only: true,
  },
  loss: {
    own: [
      (policy) => ({
        ...policy,
        lossChunkTokens: Math.min(
          policy.lossChunkTokens,
          Math.max(LEAST_LOSS_CHUNK_TOKENS, policy.lossChunkTokens >> 1),
        ),
      }),
    ],
  },
  boundaryActivations: { own: [keepFewer, onHost] },
};

/** Concessions in order. Each is repeated until it changes nothing. */
const CONCESSIONS: readonly Change[] = [
  (policy) => ({ ...policy, boundaryAhead: false }),
  keepFewer,
  (policy, { kvHeads }) => split(policy, { most: Math.min(4, kvHeads), leastRows: 2048 }),
  (policy) => ({ ...policy, plora: ploraName({ ...ploraOf(policy), branch: "apart" }) }),
  (policy) => ({ ...policy, embeddings: "host", vision: "host" }),
  (policy, { kvHeads }) => split(policy, { most: kvHeads, leastRows: 1024 }),
  (policy, config) => onHost(policy, config),
  (policy) => ({ ...policy, head: "host" }),
  (policy, { kvHeads }) => split(policy, { most: kvHeads, leastRows: 512 }),
  (policy) => ({
    ...policy,
    attentionInput: "recomputed",
    lossChunkTokens: Math.min(policy.lossChunkTokens, LEAST_LOSS_CHUNK_TOKENS),
    visionBatchTiles: Math.min(policy.visionBatchTiles, 2),
  }),
  (policy, _, { weights }) =>
    weights === "resident" || weights === "shared"
      ? undefined
      : { ...policy, weights: { source: "streamed", aheadLayers: 1 } },
  (policy) => ({ ...policy, optimizer: { ...policy.optimizer, place: "host" } }),
];

/** Tells whether the step accepts this policy for this model. */
function isReal(policy: Policy, config: ModelConfig): boolean {
  try {
    layerPolicies(policy, config);
    return true;
  } catch (refusal) {
    if (refusal instanceof UserError) return false;
    throw refusal;
  }
}

/** Returns the policy with half of the keeping layers changed to keep nothing. */
function keepFewer(policy: Policy, config: ModelConfig): Policy {
  const layers = layerPolicies(policy, config);
  const keeping = layers.flatMap(({ keep }, index) => (keep === "nothing" ? [] : [index]));
  const dropped = new Set(keeping.slice(Math.floor(keeping.length / 2)));
  return keeping.length === 0
    ? policy
    : {
        ...policy,
        layers: runsOf(
          layers.map((layer, index) => (dropped.has(index) ? { ...layer, keep: "nothing" } : layer)),
        ),
      };
}

function split(policy: Policy, { most, leastRows }: { most: number; leastRows: number }): Policy {
  const headGroups = policy.headGroups < most ? policy.headGroups * 2 : policy.headGroups;
  const mlpTileTokens = Math.min(policy.mlpTileTokens, Math.max(leastRows, policy.mlpTileTokens / 2));
  const lossChunkTokens = Math.min(
    policy.lossChunkTokens,
    Math.max(leastRows / 4, policy.lossChunkTokens / 2),
  );
  return { ...policy, headGroups, mlpTileTokens, lossChunkTokens };
}

function onHost(policy: Policy, config: ModelConfig): Policy {
  const layers = layerPolicies(policy, config).map((layer) =>
    layer.boundary === "device" ? { ...layer, boundary: "host" as const } : layer,
  );
  return { ...policy, layers: runsOf(layers) };
}

/** Returns layers as runs of alike ones. The policy repeats the last run up to the last layer. */
function runsOf(layers: readonly LayerPolicy[]): Policy["layers"] {
  const runs: Policy["layers"] = [];
  for (const layer of layers) {
    const last = runs.at(-1);
    if (last && last.boundary === layer.boundary && last.keep === layer.keep) last.count++;
    else runs.push({ ...layer, count: 1 });
  }
  return runs;
}
