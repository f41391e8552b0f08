/** The answer for scripts: one JSON value. */
import type { Answer } from "../../answer/answer.ts";
import { attentionWords } from "../../answer/attention.ts";
import { samplesMs, wholeStepMs } from "../../answer/summary.ts";
import { trainCommand } from "../../answer/trainCommand.ts";
import { misfit } from "./planText.ts";

export function recordOf(answer: Answer): Record<string, unknown> {
  const { asked, plan, solved, official, attention, alternatives, details, waysOut, ranks } = answer;
  const { device, limits, options } = asked;
  return {
    fits: plan.fits,
    ...(solved && { solved: solved.value ?? null, ...(solved.largest && { largest: solved.largest.value }) }),
    peakBytes: plan.deviceBytes,
    hostPeakBytes: plan.hostPoolBytes,
    hostMappedBytes: plan.mappedBytes,
    budgetBytes: limits.deviceBytes ?? null,
    hostBudgetBytes: limits.hostBytes ?? null,
    categories: plan.parts,
    stepMs: plan.time.microBatchMs,
    updateMs: plan.time.updateMs,
    thousandSamplesMs: samplesMs(plan, 1000),
    ...(options.samples !== undefined && { epochMs: samplesMs(plan, options.samples) }),
    ...(device.kind === "cpu" && {
      calibration: { doubtful: device.doubt !== undefined, reason: device.doubt ?? null },
    }),
    ...(ranks && {
      ranks: ranks.count,
      ...{ perRank: ranks.perRank, linkBytes: ranks.linkBytes, wholeStepMs: wholeStepMs(plan) },
      ...{ link: ranks.link, network: ranks.network ?? null, ways: ranks.ways },
    }),
    tokens: plan.tokens,
    policy: plan.policy,
    ...(attention && { attention: attentionWords(attention) }),
    train: plan.fits ? trainCommand(answer) : null,
    ...(!plan.fits && { reason: misfit(answer), waysOut }),
    ...(official &&
      options.compare === "official" && {
        official: { peakBytes: official.deviceBytes, fits: official.fits },
      }),
    ...(details && { alternatives, details }),
  };
}
