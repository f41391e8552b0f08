/**
 * Rounds: how ranks with a shared base agree on the gathers of their micro-batches before they begin. Every
 * rank says what its micro-batch needs, and all get the same list: the tower if any has pictures, each layer
 * as often as any visits it. A rank that has nothing more to compute takes part in the others' rounds until
 * all have come to the same meeting. So ranks may have different numbers of micro-batches, and repeat them
 * under leaner policies.
 */
import type { MicroBatch } from "../data/stream/batches.ts";
import type { ModelConfig } from "../models/family.ts";
import type { PartName } from "../models/shares/gathering.ts";
import type { Model } from "../models/weights.ts";
import { OutOfMemoryError } from "../torch/device.ts";
import { backwardVisits, forwardVisits } from "./layerWeights.ts";
import { layerPolicies, type Policy } from "./policy.ts";

/** The parts of the base that a rank needs for a micro-batch. */
export interface RoundNeeds {
  pictures: boolean;
  /** For each layer, whether its input is kept until the backward pass; undefined: forward only. */
  kept?: readonly boolean[] | undefined;
  /** Most tokens of an answer, each of which but the first goes through the whole model again. */
  answerTokens?: number | undefined;
}

/** Returns what a micro-batch needs under a policy. */
export function needsOf(
  batch: Pick<MicroBatch, "imageSlices">,
  policy: Policy,
  config: ModelConfig,
  { trains }: { trains: boolean },
): RoundNeeds {
  const kept = layerPolicies(policy, config).map(({ boundary }) => boundary !== "none");
  return { pictures: batch.imageSlices.length > 0, kept: trains ? kept : undefined };
}

/**
 * Runs the body, which needs this, in a round of all ranks. If it runs out of memory, the rank takes part in
 * the rest of the round before the error is thrown. Without a shared base, the body just runs.
 */
export async function inRound<T>(model: Model, needs: RoundNeeds, body: () => Promise<T>): Promise<T> {
  const { shared } = model;
  if (!shared) return await body();
  await openRound(model, needs);
  try {
    const result = await body();
    await shared.gathering.attend();
    return result;
  } catch (thrown) {
    if (thrown instanceof OutOfMemoryError) await shared.gathering.attend();
    throw thrown;
  }
}

/**
 * Resolves when every rank has come here, and takes part in their rounds until then. Ranks with a shared base
 * meet before they do anything else together.
 */
export async function meetRanks(model: Model): Promise<void> {
  while (await openRound(model, undefined)) await model.shared?.gathering.attend();
}

/** Opens a round of what all ranks need; returns false, on every rank, if none needs anything. */
async function openRound(model: Model, needs: RoundNeeds | undefined): Promise<boolean> {
  if (!model.shared) return false;
  const { gathering } = model.shared;
  const told = (await gathering.tell(needs ? { ...needs } : null)) as unknown as (RoundNeeds | null)[];
  const all = told.flatMap((each) => each ?? []);
  gathering.open(gathersOf(all, model.config));
  return all.length > 0;
}

/** Returns the gathers of a round: those of each rank are among them, in the rank's own order. */
export function gathersOf(needs: readonly RoundNeeds[], { layers }: Pick<ModelConfig, "layers">): PartName[] {
  if (needs.length === 0) return [];
  const pictures = needs.some((each) => each.pictures);
  const trained = needs.flatMap(({ kept }) => (kept ? [kept] : []));
  const passes = Math.max(...needs.map(({ answerTokens = 1 }) => answerTokens));
  const pass: PartName[] = [...forwardVisits(layers), "head"];
  return [
    "embeddings",
    ...(pictures ? ["vision" as const] : []),
    ...pass,
    ...Array.from({ length: passes - 1 }, () => ["embeddings" as const, ...pass]).flat(),
    ...(trained.length > 0 ? backwardGathers(trained) : []),
  ];
}

/**
 * Merges the layers that ranks visit in the backward pass: before each layer, the longest way to restore it.
 */
function backwardGathers(ranks: readonly (readonly boolean[])[]): number[] {
  const ways = ranks.map((kept) => waysOf(kept));
  const layers = ranks[0]!.length;
  const gathers: number[] = [];
  for (let layer = layers - 1; layer >= 0; layer--) {
    const longest = Math.max(...ways.map((way) => way[layer]!.length));
    gathers.push(...ways.find((way) => way[layer]!.length === longest)![layer]!, layer);
  }
  return gathers;
}

/** Returns, for each layer, the layers that the backward pass visits to restore its input. */
function waysOf(kept: readonly boolean[]): number[][] {
  const ways: number[][] = kept.map(() => []);
  const visits = backwardVisits(kept.map((isKept) => ({ boundary: isKept ? "device" : "none" })));
  let [way, next]: [number[], number] = [[], kept.length - 1];
  for (const visit of visits) {
    if (visit !== next) way.push(visit);
    else {
      ways[visit] = way;
      [way, next] = [[], next - 1];
    }
  }
  return ways;
}
