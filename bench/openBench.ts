/**
 * lorafit's side of bench/cpu.ts: makes weights, factors and micro-batch of a task and runs training steps on
 * them.
 */

import { readAdapter } from "../src/checkpoint/adapter/peft.ts";
import { loraFromAdapter } from "../src/models/lora.ts";
import { loadModel } from "../src/models/weights.ts";
import { OFFICIAL_ADAMW } from "../src/step/optimizer/adamW.ts";
import { createGradientSum, type GradientSum } from "../src/step/optimizer/gradientSum.ts";
import {
  createAdamW,
  gradientNorm,
  layerGradientsOf,
  loraParameters,
  stepAdamW,
} from "../src/step/optimizer/optimizer.ts";
import type { StepPhase } from "../src/step/phases.ts";
import { factorCopies, loadingOf, Policy } from "../src/step/policy.ts";
import { trainStep } from "../src/step/step.ts";
import { setThreads } from "../src/torch/device.ts";
import { ALONE, type Peers } from "../src/torch/peers/peers.ts";
import { scope } from "../src/torch/tensor.ts";
import { type CpuTask, taskBatch } from "./cpuTask.ts";
import { runToEnd } from "./workload.ts";

/** `loaded` is called when the weights are there and nothing else is. */
export function openBench(
  task: CpuTask,
  loaded: () => void = () => {},
  peers: Peers = ALONE,
): { step: () => { loss: number; gradientNorm: number } } {
  setThreads(task.threads);
  const policy = Policy.parse(task.policy);
  const model = loadModel(task.checkpoint, { dtype: "bfloat16", device: "cpu", ...loadingOf(policy) });
  const batch = taskBatch(model.config, task);
  loaded();
  const lora = scope(() =>
    loraFromAdapter(model.config, readAdapter(task.adapterFolder), {
      ...{ device: "cpu", gradients: policy.gradients, copies: factorCopies(policy, "bfloat16") },
    }),
  );
  const parameters = loraParameters(lora);
  const optimizer = createAdamW(parameters, OFFICIAL_ADAMW, policy.optimizer);
  const { microBatches = 1 } = task;
  const sum =
    peers.count > 1
      ? createGradientSum(peers, layerGradientsOf(parameters), { exact: false, overlaps: true })
      : undefined;
  return {
    step: () => {
      let loss = Number.NaN;
      for (let done = peers.rank; done < microBatches; done += peers.count) {
        const isLast = done + peers.count >= microBatches;
        const steps = trainStep(model, lora, batch, policy, { lossScale: 1 / microBatches });
        loss = runToEnd(isLast ? addingUp(steps, sum) : steps).loss;
      }
      for (const pending of sum?.finish() ?? []) pending.wait();
      const norm = gradientNorm(parameters);
      stepAdamW(optimizer, task.learningRate, 1);
      return { loss, gradientNorm: norm };
    },
  };
}

/** Runs a backward pass, and begins to add up the gradients of layers that it is done with, as a run does. */
function* addingUp<Result>(
  steps: Generator<StepPhase, Result>,
  sum: GradientSum | undefined,
): Generator<StepPhase, Result> {
  for (let next = steps.next(); ; next = steps.next()) {
    if (next.done) return next.value;
    const { phase, done, total } = next.value;
    if (phase === "backward" && done < total) sum?.begin(total - done);
    yield next.value;
  }
}
