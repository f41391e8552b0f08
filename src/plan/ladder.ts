/**
 * Policies from fast to lean. Every rung is the one before with one thing given up, the cheapest in time
 * first, so a run that is out of memory can go down from wherever it stands.
 */
import { UserError } from "../errors.ts";
import type { ModelConfig } from "../models/family.ts";
import { type LayerPolicy, layerPolicies, Policy, ploraName, ploraOf } from "../step/policy.ts";
import type { Category } from "../torch/device.ts";

/** The choices of a policy that a user may fix. */
export interface FixedPolicy {
  weights?: "resident" | "streamed" | undefined;
  /** Places and precisions of a policy, which a run can't change once it is under way. */
  places?: RunPlaces | undefined;
  /** Nor whether its model was loaded with PLoRA folded into the weights; left out: whatever is faster. */
  folded?: boolean | undefined;
  /** The attention kernel that a run has settled on. */
  attention?: Policy["attention"] | undefined;
}

/** The parts of a policy that a model, its factors and its optimizer are made for. */
export type RunPlaces = Pick<Policy, (typeof RUN_PLACES)[number]>;
const RUN_PLACES = ["weights", "embeddings", "head", "vision", "optimizer", "gradients"] as const;

export function runPlaces(policy: Policy): RunPlaces {
  return Object.fromEntries(RUN_PLACES.map((part) => [part, policy[part]])) as RunPlaces;
}

/**
 * Rows that the MLP takes at a time where there is room: a weight in 4 or 8 bits is read back once for all of
 * them.
 */
export const MOST_MLP_TILE_TOKENS = 8192;

/**
 * Nothing is kept but boundaries, and parts are as large as is of use: more room than this takes only kept
 * layers can use.
 */
function fastPolicy({ weights = "resident", places, folded = false, attention }: FixedPolicy = {}): Policy {
  return Policy.parse({
    headGroups: 1,
    mlpTileTokens: MOST_MLP_TILE_TOKENS,
    lossChunkTokens: 1024,
    visionBatchTiles: 8,
    plora: ploraName({ folded, branch: "apart" }), // merged or folded where the search sees that it is faster and fits
    weights: { source: weights },
    attention,
    ...places,
  });
}

/**
 * The leanest policies, of which one or another lets the most fit: it depends on what the host has room for.
 */
export function leanestPolicies(config: ModelConfig, fixed: FixedPolicy = {}): Policy[] {
  const leanest = policyLadder(config, fixed).at(-1)!;
  // The last layer goes back first, beside its kept attention: too much to restore its input there.
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

/** The policies to choose from, from fast to lean. */
export function policyLadder(config: ModelConfig, fixed: FixedPolicy = {}): Policy[] {
  const rungs: Policy[] = [];
  for (let rung: Policy | undefined = fastPolicy(fixed); rung; rung = leanerPolicy(rung, config, fixed))
    rungs.push(rung);
  return rungs;
}

/**
 * Returns the policy with the next concession made; undefined if nothing is left. short: the category of an
 * allocation that failed, whose part of the step the concession has to help.
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

/** The least rows of the loss that are worth a pass of their own. */
const LEAST_LOSS_CHUNK_TOKENS = 128;

/**
 * Concessions that help a part of the step most; only: nothing else helps it, since pictures are encoded
 * before all else.
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

/** Concessions in the order in which they are made; each is made again until it changes nothing. */
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
    weights === "resident" ? undefined : { ...policy, weights: { source: "streamed", aheadLayers: 1 } },
  (policy) => ({ ...policy, optimizer: { ...policy.optimizer, place: "host" } }),
];

/** Whether the step takes this policy for this model. */
function isReal(policy: Policy, config: ModelConfig): boolean {
  try {
    layerPolicies(policy, config);
    return true;
  } catch (refusal) {
    if (refusal instanceof UserError) return false;
    throw refusal;
  }
}

/** Half of the layers that keep something keep it no longer. */
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

/** Layers written as runs of alike ones; the last run goes on to the end. */
function runsOf(layers: readonly LayerPolicy[]): Policy["layers"] {
  const runs: Policy["layers"] = [];
  for (const layer of layers) {
    const last = runs.at(-1);
    if (last && last.boundary === layer.boundary && last.keep === layer.keep) last.count++;
    else runs.push({ ...layer, count: 1 });
  }
  return runs;
}
