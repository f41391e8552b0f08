/** A rank that trains several runs, one after the other. */
import type { Peers } from "../../src/torch/peers/peers.ts";
import { type RankRun, type TrainArgs, rank as trainOne } from "./train.rank.ts";

export async function rank(peers: Peers, runs: readonly TrainArgs[]): Promise<RankRun[]> {
  const results: RankRun[] = [];
  for (const run of runs) results.push(await trainOne(peers, run));
  return results;
}
