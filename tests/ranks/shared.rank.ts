/** One rank that computes micro-batches of its own on a base of which it holds a share, or the whole. */
import { createHash } from "node:crypto";
import { createLora, disposeLora, type Lora, zeroGradients } from "../../src/models/lora.ts";
import type { Bases } from "../../src/models/precision/bases.ts";
import { completeShares } from "../../src/models/shares/sharing.ts";
import { disposeModel, loadModel, type Model } from "../../src/models/weights.ts";
import { OFFICIAL_TARGETS } from "../../src/models/xcomposer2/spec.ts";
import { exactShape } from "../../src/plan/dryRun/batchShapes.ts";
import { dryRun } from "../../src/plan/dryRun/dryRun.ts";
import { drive } from "../../src/step/driveSteps.ts";
import { createGradientSum } from "../../src/step/optimizer/gradientSum.ts";
import {
  createAdamW,
  disposeAdamW,
  gradientNorm,
  gradientsOf,
  layerGradientsOf,
  loraParameters,
  stepAdamW,
} from "../../src/step/optimizer/optimizer.ts";
import { loadingOf, Policy } from "../../src/step/policy.ts";
import { inRound, meetRanks, needsOf } from "../../src/step/rounds.ts";
import { evalStep, trainStep } from "../../src/step/step.ts";
import {
  failAtAllocation,
  liveTensors,
  memoryStats,
  OutOfMemoryError,
  resetPeak,
} from "../../src/torch/device.ts";
import type { Peers } from "../../src/torch/peers/peers.ts";
import { loadedModel } from "../../src/train/machine/modelPlanner.ts";
import { withOpened } from "../../src/train/machine/openedModel.ts";
import { randomBatch } from "../helpers/randomModel.ts";

export interface Work {
  /** Samples of a micro-batch, as randomBatch takes them. */
  samples: { textTokens: number; images?: number }[];
  seed: number;
  policy: unknown;
  does?: "trains" | "evaluates";
  /** The allocation at which its first attempt runs out of memory, and the policy of the second. */
  failsAt?: number;
  leaner?: unknown;
  /** Whether the next allocation fails too, when the rank takes part in the rest of the round. */
  failsAgain?: boolean;
}

export interface Args {
  folder: string;
  dtype: "float32" | "bfloat16";
  bases?: Bases;
  /** Micro-batches of each rank. */
  work: Work[][];
  measures?: boolean;
}

export interface Result {
  /** SHA-256 of the gradients of each micro-batch, or its loss. */
  results: string[];
  attempts: number;
  leftBytes: number;
  leftTensors: number;
  peakBytes: number;
  plannedBytes: number;
}

export async function rank(
  peers: Peers,
  { folder, dtype, bases = {}, work, measures }: Args,
): Promise<Result> {
  const own = work[peers.rank]!;
  const first = Policy.parse(work.flat()[0]!.policy);
  const [bytesBefore, tensorsBefore] = [memoryStats("cpu").liveBytes, liveTensors()];
  resetPeak("cpu");
  const model = loadModel(folder, { device: "cpu", dtype, ...bases, ...loadingOf(first), peers });
  await completeShares(model);
  const lora = createLora(model.config, {
    ...LORA,
    ...{ alpha: 8, rslora: false, seed: 5, device: "cpu", gradients: "fp32" },
  });
  for (const { b } of lora.modules.values()) b.value.fill_(0.02);
  const optimizer = createAdamW(
    loraParameters(lora),
    { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0 },
    first.optimizer,
  );
  const sum =
    measures && peers.count > 1
      ? createGradientSum(peers, layerGradientsOf(optimizer.parameters), { exact: false })
      : undefined;
  const counted = { attempts: 0 };
  const results: string[] = [];
  for (const each of own) results.push(await compute(model, lora, each, counted));
  await meetRanks(model);
  if (measures) {
    for (const pending of sum?.finish() ?? []) pending.wait();
    gradientNorm(optimizer.parameters);
    stepAdamW(optimizer, 1e-4, 0.5);
  }
  const { peakBytes } = memoryStats("cpu");
  await meetRanks(model);
  const plannedBytes = measures ? planned(peers, { folder, dtype, bases, work }) : 0;
  sum?.[Symbol.dispose]();
  disposeAdamW(optimizer);
  disposeLora(lora);
  disposeModel(model);
  return {
    ...{ results, ...counted, plannedBytes, peakBytes: peakBytes - bytesBefore },
    leftBytes: memoryStats("cpu").liveBytes - bytesBefore,
    leftTensors: liveTensors() - tensorsBefore,
  };
}

const LORA = { rank: 4, dropout: 0, targets: OFFICIAL_TARGETS };

async function compute(
  model: Model,
  lora: Lora,
  { samples, seed, does = "trains", failsAt, ...work }: Work,
  counted: { attempts: number },
): Promise<string> {
  const batch = randomBatch(model.config, samples, seed);
  const trains = does === "trains";
  for (const given of [work.policy, work.leaner]) {
    const policy = Policy.parse(given);
    zeroGradients(lora);
    const isFirst = given === work.policy;
    const body = async (): Promise<number> => {
      counted.attempts += 1;
      if (failsAt && isFirst) failAtAllocation("cpu", failsAt);
      try {
        const { loss } = trains
          ? await drive(trainStep(model, lora, batch, policy, { lossScale: 1 }))
          : await drive(evalStep(model, lora, batch, policy));
        return loss;
      } catch (thrown) {
        if (work.failsAgain) failAtAllocation("cpu", 1);
        throw thrown;
      }
    };
    try {
      const loss = await inRound(model, needsOf(batch, policy, model.config, { trains }), body);
      return `${loss} ${trains ? gradientDigest(lora) : ""}`;
    } catch (thrown) {
      if (!(thrown instanceof OutOfMemoryError)) throw thrown;
    }
  }
  throw new Error("it ran out of memory twice");
}

function gradientDigest(lora: Lora): string {
  const hash = createHash("sha256");
  for (const gradient of gradientsOf(loraParameters(lora))) hash.update(gradient.toBytes());
  return hash.digest("hex");
}

/** Returns the planned peak of this rank's largest micro-batch. */
function planned({ rank, count }: Peers, { folder, dtype, bases, work }: Args): number {
  const shape = withOpened(folder, (opened) => loadedModel(opened, { ...bases, dtypeFor: () => dtype }));
  const peaks = work[rank]!.map(({ samples, seed, policy }) => {
    const batch = exactShape(randomBatch(shape.model, samples, seed));
    const configuration = {
      ...shape,
      lora: LORA,
      batch,
      policy: Policy.parse(policy),
      target: "cpu",
    } as const;
    return dryRun({ ...configuration, ranks: { rank, count, perMachine: count } }).device.peakBytes;
  });
  return Math.max(...peaks);
}
