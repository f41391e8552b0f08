/** Finds the changes that free memory in a plan, one setting at a time, by the bytes that each frees. */
import { UserError } from "../errors.ts";
import type { SizedPlan, SizedWorkload } from "../plan/planner.ts";
import { layerPolicies, type Policy } from "../step/policy.ts";
import type { NarrowQuestion } from "./question.ts";

/** A change of one setting. */
export interface FreeingChange {
  /** The training option, as a configuration spells it, with its new value: "max_length 2048". */
  change: string;
  /** Bytes on the device that the plan then needs less. */
  freedBytes: number;
  /** Whether it changes what the model learns, not only time and place. */
  changesResults: boolean;
}

/** Returns the changes that free something, those that free most first. */
export function freeingChanges(question: NarrowQuestion, plan: SizedPlan): FreeingChange[] {
  const { planner, limits } = question;
  const { workload, policy } = plan;
  const bytesOf = ({ of = planner, ...changed }: Partial<Candidate>): number => {
    const next = { workload, policy, ...changed };
    return of.plan(next.workload, next.policy, limits).run.budgetedBytes;
  };
  const before = bytesOf({});
  return [...sizeChanges(workload), ...placeChanges(question, policy), ...bitChanges(question, policy)]
    .map((candidate) => {
      const { change, changesResults } = candidate;
      const after = possible(() => bytesOf(candidate)); // no text is left beside a picture if samples are too short
      return { change, changesResults, freedBytes: after === undefined ? 0 : before - after };
    })
    .filter(({ freedBytes }) => freedBytes > 0)
    .sort((one, other) => other.freedBytes - one.freedBytes);
}

interface Candidate {
  change: string;
  changesResults: boolean;
  workload?: SizedWorkload;
  policy?: Policy;
  of?: NarrowQuestion["planner"];
}

/** Half of each size. */
function sizeChanges(workload: SizedWorkload): Candidate[] {
  const sizes = { max_length: "maxLength", lora_r: "rank", batch_size: "batchSize" } as const;
  return Object.entries(sizes).flatMap(([option, size]) => {
    const half = Math.floor(workload[size] / 2);
    if (half < 1) return [];
    return [{ change: `${option} ${half}`, changesResults: true, workload: { ...workload, [size]: half } }];
  });
}

/** Other places and smaller parts: slower, with the same results. */
function placeChanges({ planner }: NarrowQuestion, policy: Policy): Candidate[] {
  const { config } = planner;
  const { headGroups, mlpTileTokens, visionBatchTiles, lossChunkTokens } = policy;
  const layers = layerPolicies(policy, config);
  const asRuns = (changed: typeof layers): Policy => ({
    ...policy,
    layers: changed.map((layer) => ({ ...layer, count: 1 })),
  });
  const changes: [change: string, to: Policy][] = [
    ["keep nothing", asRuns(layers.map((layer) => ({ ...layer, keep: "nothing" })))],
    ["boundaries host", asRuns(layers.map((layer) => ({ ...layer, boundary: "host" })))],
    ["weights streamed", { ...policy, weights: { ...policy.weights, source: "streamed" } }],
    [`head_groups ${config.kvHeads}`, { ...policy, headGroups: config.kvHeads }],
    [`mlp_tile ${half(mlpTileTokens)}`, { ...policy, mlpTileTokens: half(mlpTileTokens) }],
    [`vision_batch ${half(visionBatchTiles)}`, { ...policy, visionBatchTiles: half(visionBatchTiles) }],
    [`loss_chunk ${half(lossChunkTokens)}`, { ...policy, lossChunkTokens: half(lossChunkTokens) }],
  ];
  return changes
    .filter(([change]) => headGroups < config.kvHeads || !change.startsWith("head_groups"))
    .filter(([, to]) => possible(() => planner.check(to) ?? true))
    .map(([change, to]) => ({ change, changesResults: false, policy: to }));
}

const half = (rows: number): number => Math.max(1, Math.floor(rows / 2));

/** Returns what the body returns; undefined if that is not possible for this model. */
function possible<T>(body: () => T): T | undefined {
  try {
    return body();
  } catch (refusal) {
    if (refusal instanceof UserError) return undefined;
    throw refusal;
  }
}

/** Fewer bits of what is frozen, and of the optimizer's moments. */
function bitChanges({ planner }: NarrowQuestion, policy: Policy): Candidate[] {
  const bases = (["int8", "nf4"] as const).flatMap((bits): Candidate[] => [
    ...(planner.canQuantize(bits)
      ? [{ change: `base ${bits}`, changesResults: true, of: planner.withBases({ base: bits }) }]
      : []),
    ...(planner.visionBase === "bf16"
      ? [{ change: `vision_base ${bits}`, changesResults: true, of: planner.withBases({ visionBase: bits }) }]
      : []),
  ]);
  if (policy.optimizer.precision === "8bit") return bases;
  const optimizer = { ...policy.optimizer, precision: "8bit" as const };
  return [
    ...bases,
    { change: "the optimizer's moments in 8 bits", changesResults: true, policy: { ...policy, optimizer } },
  ];
}
