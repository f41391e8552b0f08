/** A rank that trains, and may be killed or interrupted on the way. */
import { renameSync } from "node:fs";
import type { Peers } from "../../src/torch/peers/peers.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { train } from "../../src/train/loop/trainer.ts";
import type { TrainInput } from "../../src/train/options/options.ts";

/** At the first micro-batch of a step on a rank. */
interface At {
  rank: number;
  step: number;
}

export interface TrainArgs {
  options: TrainInput;
  /** Options of single ranks. */
  ofRank?: Record<number, Partial<TrainInput>>;
  kill?: At;
  interrupt?: At;
  /** A file that rank 0 renames once all ranks have opened the run. */
  vanish?: { from: string; to: string };
}

/** Report of a rank. */
export interface RankRun {
  result: Record<string, unknown>;
  /** Facts but phases, in order. */
  facts: RunFact[];
}

export async function rank(
  peers: Peers,
  { options, ofRank, kill, interrupt, vanish }: TrainArgs,
): Promise<RankRun> {
  const interruption = new AbortController();
  const facts: RunFact[] = [];
  const isAt = (at: At | undefined, fact: RunFact): boolean =>
    fact.fact === "microBatch" && at?.rank === peers.rank && at.step === fact.step;
  const take = async (fact: RunFact): Promise<void> => {
    if (fact.fact === "start" && vanish) {
      await peers.barrier(); // all have read the data
      if (peers.rank === 0) renameSync(vanish.from, vanish.to);
      await peers.barrier();
    }
    if (fact.fact !== "phase") facts.push(fact);
    if (isAt(interrupt, fact)) interruption.abort();
    if (isAt(kill, fact)) process.kill(process.pid, "SIGKILL");
  };
  const own = { ...options, ...ofRank?.[peers.rank] } as TrainInput;
  const result = await train(own, { peers, signal: interruption.signal, sinks: [{ take }] });
  return { result: { ...result }, facts };
}
