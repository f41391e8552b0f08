/** Why a plan's numbers are what they are: each category with the tensors in it, and each phase of the step. */
import { formatCount } from "../../errors.ts";
import { kernelsOf } from "../../nn/attention/kernels.ts";
import { type DryRun, STEP_PHASES } from "../../plan/dryRun/dryRun.ts";
import type { Plan } from "../../plan/planner.ts";
import { inWords } from "../../plan/time/attentionChoice.ts";
import { capabilityOf } from "../../plan/time/cards.ts";
import { isCpuSpeed } from "../../plan/time/cpuSpeed.ts";
import { hiddenShare, stepTimeMs } from "../../plan/time/stepTime.ts";
import { formatDuration, table } from "../output/output.ts";
import { partsOf } from "./answer.ts";
import type { Question } from "./question.ts";
import { elsewhere, gib, SHOWN_BYTES } from "./words.ts";

/** Parts of the budgeted bytes by the names that people read. */
export const PART_TITLES: Record<string, string> = {
  weights: "frozen model",
  loraParameters: "LoRA factors",
  loraGradients: "LoRA gradients",
  optimizerState: "optimizer state",
  inputData: "input data",
  visionFeatures: "vision",
  boundaryActivations: "kept for the backward pass",
  workingSet: "the layer being computed",
  loss: "loss",
  workspace: "workspaces",
  context: "CUDA context",
  allocator: "rounding",
};

/** What is in each part of the budgeted bytes. */
const TENSORS: Record<string, (plan: Plan, question: Question) => string> = {
  weights: ({ policy }, question) =>
    `${
      policy.weights.source === "streamed"
        ? `the frozen layer that computes, the next ones on their way, and what else of the model is not ${elsewhere(question).where}`
        : `all decoder layers' frozen matrices, and of embeddings, head and vision tower what is not ${elsewhere(question).where}`
    }${visionNote(question, "tower and projector in")}`,
  loraParameters: ({ workload }) =>
    `factors A and B of rank ${workload.rank} of the five matrices of each layer`,
  loraGradients: ({ policy }) => `a gradient for each factor, ${policy.gradients}`,
  optimizerState: ({ policy }) => `AdamW's two moments of each factor, ${policy.optimizer.precision}`,
  inputData: () => "tables of rotary positions, tokens, pixels",
  visionFeatures: (_, question) =>
    `tiles on their way through the vision tower${visionNote(question, "and what a product reads of its matrices back from")}`,
  boundaryActivations: ({ run }, { planner: { config } }) =>
    `each layer's input, ${formatCount(run.tokens)} tokens x ${formatCount(config.hidden)} numbers, and the values that layers keep`,
  workingSet: () => "the values of the layer that computes: queries, keys, MLP slices, and their gradients",
  loss: ({ policy }) => `logits of ${formatCount(policy.lossChunkTokens)} tokens at a time`,
  workspace: () => "what cuBLAS and kernels take for themselves",
  context: () => "the CUDA context, outside of PyTorch's allocator",
  allocator: () => "rounding and gaps of PyTorch's caching allocator, replayed",
};

/** What is to say of a vision tower in fewer bits. */
function visionNote({ planner: { visionBase } }: Question, what: string): string {
  return visionBase === "bf16" ? "" : ` (${what} ${visionBase})`;
}

/** Each part of the memory at the peak with the tensors that it is made of, and each phase with its peak and its time. */
export function explanation(question: Question, plan: Plan): string {
  const parts = partsOf({ run: plan.run, card: question.card });
  const rows = Object.entries(parts)
    .filter(([, bytes]) => bytes >= 2 ** 20)
    .map(([name, bytes]) => [
      `  ${PART_TITLES[name] ?? name}`,
      gib(bytes),
      TENSORS[name]?.(plan, question) ?? "",
    ]);
  return [
    "Why these numbers: the training step's own code ran without data, with every allocation written down (docs/memory.md).",
    "Alive at the peak:",
    table(rows),
    ...(question.card ? [`Attention kernel: ${plannedAttention(question, plan)}.`] : []),
    "",
    "Phases: peak of live bytes, time, arithmetic",
    table(phases(question, plan.run)),
    ...hiddenCopies(question, plan.run),
  ].join("\n");
}

/** The kernel that was planned with, and by whose choice. */
export function plannedAttention({ card, planner, timed }: Question, { policy }: Plan): string {
  if (timed && policy.attention === timed.kernel)
    return `${timed.kernel}, the fastest as a run has timed them on this machine: ${inWords(timed)}`;
  if (policy.attention !== "measured") return `${policy.attention}, as the policy says`;
  const [rule] = kernelsOf(capabilityOf(card!), planner.dtype);
  return `${rule}, the usual one for this card; a run times what the card has at its start and may take another`;
}

/** How well what comes from the host and goes there is hidden behind computing. */
function hiddenCopies({ planner: { speed } }: Question, run: DryRun): string[] {
  const ops = run.phases.filter(({ name }) => STEP_PHASES.includes(name)).map((phase) => phase.ops());
  const share = isCpuSpeed(speed) ? undefined : hiddenShare(ops, speed);
  return share === undefined
    ? []
    : [
        `Copies from the host and to it: ${Math.round(100 * share)} % of their time is hidden behind computing.`,
      ];
}

/** The others read and write files, which nothing here knows the speed of. */
const TIMED_PHASES = [...STEP_PHASES, "update"];

function phases(question: Question, run: DryRun): string[][] {
  const { planner } = question;
  return run.phases.map((phase) => [
    `  ${phase.name}`,
    gib(phase.devicePeakBytes),
    phase.hostPeakBytes >= SHOWN_BYTES ? `+ ${gib(phase.hostPeakBytes)} ${elsewhere(question).column}` : "",
    TIMED_PHASES.includes(phase.name) ? formatDuration(stepTimeMs(phase.ops(), planner.speed)) : "",
    `${(phase.ops().reduce((sum, { flops, count }) => sum + flops * count, 0) / 1e12).toFixed(1)} TFLOP`,
  ]);
}
