/**
 * Runs one micro-batch, and repeats it if memory runs out, as long as a leaner policy is left. First its
 * tensors are freed and the gradients restored. A leaner policy costs time; it changes results by rounding
 * only.
 */
import type { MicroBatch } from "../../data/stream/batches.ts";
import { formatCount, plural } from "../../errors.ts";
import { mixSeed } from "../../nn/dropout.ts";
import { concessionsOf } from "../../plan/policyWords.ts";
import { drive } from "../../step/driveSteps.ts";
import type { StepPhase } from "../../step/phases.ts";
import type { Policy } from "../../step/policy.ts";
import { inRound, needsOf } from "../../step/rounds.ts";
import { type QueuedStep, queueStep } from "../../step/step.ts";
import { OutOfMemoryError } from "../../torch/device.ts";
import { freeCache } from "../machine/compute.ts";
import type { RunPlan } from "../planning/policyByLength.ts";
import { requireAlone, sharersOf } from "../ranks/rowSharing.ts";
import { isTogether } from "../ranks/together.ts";
import type { Run } from "./run.ts";
import { doesNotFit, namesOf, ranOut } from "./stopErrors.ts";

/**
 * Queues what adds a micro-batch's gradients to those of the step; with the last one comes their norm. Throws
 * UserError where it does not fit under the leanest policy.
 */
export async function runMicroBatch(
  run: Run,
  batch: MicroBatch,
  lossScale: number,
  { onPhase, onRanOut }: Watching,
): Promise<QueuedStep> {
  const { model, lora, optimizer } = run.loaded;
  const { state } = run.progress;
  const dropoutSeed = mixSeed(BigInt(run.inputs.options.seed), state.microBatches);
  const subject = `Step ${state.step + 1}: ${namesOf(batch.samples)}`;
  const isLast = isLastOfStep(run);
  const normOf = isLast && !isTogether(run) ? optimizer.parameters : undefined;
  const sum = isLast ? run.loaded.sum : undefined;
  const sharers = sharersOf(run);
  saveGradients(run, subject);
  const tokens = batch.inputIds.length;
  const otherwise = async (cause: OutOfMemoryError): Promise<never> => {
    throw await doesNotFit(`${subject} (${formatCount(tokens)} tokens)`, cause, run);
  };
  const passed = (phase: StepPhase): void => {
    onPhase(phase);
    const { done, total } = phase;
    if (phase.phase === "backward" && done < total) sum?.begin(total - done);
  };
  const attempt = {
    subject,
    tokens,
    ladder: run.planned.plan,
    undo: () => undoMicroBatch(run),
    otherwise,
    onRanOut,
  };
  return await fitting(run, attempt, (policy) =>
    inRound(model, needsOf(batch, policy, model.config, { trains: true }), () =>
      drive(queueStep(model, lora, batch, policy, { lossScale, dropoutSeed, normOf, sharers }), passed),
    ),
  );
}

interface Watching {
  onPhase: (phase: StepPhase) => void;
  /**
   * Notes that memory ran out; returns whether to do the micro-batch again under the same policy, to record
   * its allocations.
   */
  onRanOut: (cause: OutOfMemoryError) => Promise<boolean>;
}

/** Gives the gradients back what they were before the micro-batch, which is then computed again. */
export function undoMicroBatch({ loaded: { backup, sum } }: Pick<Run, "loaded">): void {
  if (sum) sum.undo(backup);
  else backup.restore();
}

/** Whether the micro-batch that comes is the last one of a whole step that this process computes. */
export function isLastOfStep({ progress }: Pick<Run, "progress">): boolean {
  return progress.state.accumulated.microBatches + 1 === progress.ownMicroBatches;
}

/** Where an update has given up the copy of the gradients, this may be too much. */
function saveGradients(run: Run, subject: string): void {
  try {
    run.loaded.backup.save();
  } catch (thrown) {
    if (!(thrown instanceof OutOfMemoryError)) throw thrown;
    throw ranOut(`${subject}: the copy of the gradients before it`, thrown, run);
  }
}

/** A body that runs under the policies of a ladder. */
interface Attempt<N> {
  /** Name of the body in errors and reports. */
  subject: string;
  tokens: number;
  ladder: Pick<RunPlan, "policyFor" | "stepDown">;
  /** Before it is done again. */
  undo?: () => void;
  /** Called if no leaner policy is left. */
  otherwise: (cause: OutOfMemoryError) => Promise<N>;
  onRanOut?: Watching["onRanOut"];
}

/**
 * Runs the body under the policy of so many tokens. Whenever memory runs out, runs it again under a policy
 * that is leaner in the part of the step that had too little.
 */
export async function fitting<T, N>(
  run: Run,
  { subject, tokens, ladder, undo, otherwise, onRanOut }: Attempt<N>,
  body: (policy: Policy) => Promise<T>,
): Promise<T | N> {
  for (;;) {
    const policy = ladder.policyFor(tokens);
    try {
      return await body(policy);
    } catch (thrown) {
      if (!(thrown instanceof OutOfMemoryError)) throw thrown;
      requireAlone(run, () => ranOut(`${subject}, shared among ranks,`, thrown, run));
      freeCache(run.loaded.model.device);
      undo?.();
      if (await onRanOut?.(thrown)) continue;
      const leaner = ladder.stepDown(tokens, thrown.category);
      if (!leaner) return await otherwise(thrown);
      const concessions = concessionsOf(leaner, run.loaded.model.config, { beyond: policy });
      const gives = concessions.join(", ") || smallerParts(policy, leaner);
      const { message: cause, pool, requestedBytes } = thrown;
      run.facts.say({
        fact: "leaner",
        step: run.progress.state.step + 1,
        ...{ subject, cause, pool, requestedBytes, concessions },
        text: `${subject}: ${cause}. Micro-batches this long or longer now use less memory: ${gives}. Repeating this one; the result is the same except for rounding.`,
      });
    }
  }
}

/** Names a step of which the words for policies say nothing. */
function smallerParts(policy: Policy, leaner: Policy): string {
  const { visionBatchTiles, lossChunkTokens } = leaner;
  if (visionBatchTiles < policy.visionBatchTiles)
    return `${plural(visionBatchTiles, "tile")} of a picture at a time`;
  if (lossChunkTokens < policy.lossChunkTokens)
    return `the loss of ${formatCount(lossChunkTokens)} tokens at a time`;
  return "the next leaner policy";
}
