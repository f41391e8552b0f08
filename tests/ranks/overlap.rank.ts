/** A rank that trains, and writes down in which part of a step it starts each collective. */
import { failAtAllocation } from "../../src/torch/device.ts";
import type { Peers, Pending } from "../../src/torch/peers/peers.ts";
import type { RunFact } from "../../src/train/facts/runFact.ts";
import { train } from "../../src/train/loop/trainer.ts";
import type { TrainInput } from "../../src/train/options/options.ts";

export interface OverlapArgs {
  options: TrainInput;
  /** The step in whose last micro-batch a rank runs out of memory, once its first collective has started. */
  runsOut?: { rank: number; step: number };
}

export interface OverlapRun {
  /** The kind of each collective, in order. */
  kinds: string[];
  /** Collectives that each step starts before its last backward pass has ended. */
  early: number[];
  /** Gradient norm of each step, after the sum. */
  norms: number[];
  leaner: string[];
}

export async function rank(peers: Peers, { options, runsOut }: OverlapArgs): Promise<OverlapRun> {
  const run: OverlapRun = { kinds: [], early: [], norms: [], leaner: [] };
  let [isBackward, step] = [false, 1];
  const noted = <Given extends unknown[]>(kind: string, start: (...given: Given) => Pending) => {
    return (...given: Given): Pending => {
      run.kinds.push(kind);
      if (isBackward) run.early[step - 1] = (run.early[step - 1] ?? 0) + 1;
      return start(...given);
    };
  };
  const take = (fact: RunFact): undefined => {
    if (fact.fact === "phase") {
      const { phase, done, total } = fact.phase;
      ({ step } = fact);
      isBackward = phase === "backward" && done < total;
      const isHere = isBackward && runsOut?.rank === peers.rank && runsOut.step === step;
      if (isHere && run.leaner.length === 0 && run.early[step - 1]) failAtAllocation("cpu", 1);
    }
    if (fact.fact === "step") run.norms.push(fact.record.gradNorm);
    if (fact.fact === "leaner") run.leaner.push(fact.text);
  };
  const watched: Peers = {
    ...peers,
    ...{ rank: peers.rank, count: peers.count },
    sum: noted("sum", (x) => peers.sum(x)),
    exchange: noted("exchange", (from, into) => peers.exchange(from, into)),
    gather: noted("gather", (part, into) => peers.gather(part, into)),
    most: (value) => peers.most(value),
    tell: (key, value) => peers.tell(key, value),
    barrier: () => peers.barrier(),
  };
  await train(options, { peers: watched, sinks: [{ take }] });
  return run;
}
