/** The text of --explain: use of the memory, slower options, room to spare, cost of each setting, phases. */
import { stringify } from "yaml";
import type { Answer, Asked } from "../../answer/answer.ts";
import { attentionWords } from "../../answer/attention.ts";
import type { BytesChanged, Levers } from "../../answer/levers.ts";
import { PART_TITLES } from "../../answer/partTitles.ts";
import type { PlanSummary } from "../../answer/summary.ts";
import { trainOptionsOf } from "../../answer/trainCommand.ts";
import { formatBytes, formatCount } from "../../errors.ts";
import { linearNames } from "../../models/families.ts";
import { concessionGroups, concessionsOf } from "../../plan/policyWords.ts";
import { commandLine } from "../../program.ts";
import { bar, formatDuration, table } from "../output/output.ts";
import { alphaLever, elsewhere, gib, LEAN_REST, SHOWN_BYTES, signed, waysTable } from "./words.ts";

const BAR_COLUMNS = 24;
const MIB = 2 ** 20;

/** The tensors in each part of the budgeted bytes. */
const TENSORS: Record<string, (answer: Answer) => string> = {
  weights: (answer) =>
    `${
      answer.plan.policy.weights.source === "streamed"
        ? `the layer being computed, the next ones on their way, and what else of the model is not ${placesOf(answer).where}`
        : `the frozen matrices of all decoder layers; embeddings, head and vision tower if they are not ${placesOf(answer).where}`
    }${visionNote(answer.asked, "tower and projector in")}`,
  loraParameters: ({ plan, asked }) =>
    `factors A and B of rank ${plan.workload.rank} of the ${linearNames(asked.model.config).length} matrices of each layer`,
  loraGradients: ({ plan }) => `a gradient for each factor, ${plan.policy.gradients}`,
  optimizerState: ({ plan }) => `AdamW's two moments of each factor, ${plan.policy.optimizer.precision}`,
  inputData: () => "tables of rotary positions, tokens, pixels",
  visionFeatures: ({ asked }) =>
    `tiles on their way through the vision tower${visionNote(asked, "and its matrices, read back from")}`,
  boundaryActivations: ({ plan, asked }) =>
    `each layer's input, ${formatCount(plan.tokens)} tokens x ${formatCount(asked.model.config.hidden)} numbers, and the values that layers keep`,
  workingSet: () => "values of one layer: queries, keys, MLP slices, and their gradients",
  loss: ({ plan }) => `logits of ${formatCount(plan.policy.lossChunkTokens)} tokens at a time`,
  workspace: () => "memory that cuBLAS and kernels allocate for themselves",
  context: () => "the CUDA context, outside of PyTorch's allocator",
  allocator: () => "rounding and gaps of PyTorch's caching allocator, replayed",
};

function placesOf({ asked }: Answer) {
  return elsewhere(asked.device);
}

function visionNote({ model }: Asked, what: string): string {
  return model.visionBase === "bf16" ? "" : ` (${what} ${model.visionBase})`;
}

/** Everything that the short answer leaves out. */
export function explanation(answer: Answer): string {
  const { asked, details, plan, attention } = answer;
  const { levers, room, phases, hiddenShare } = details!;
  return [
    partsText(answer),
    howText(answer),
    alternativesText(answer),
    ...(room ? [roomText(answer)] : []),
    leversText(asked, levers, plan),
    [
      "Phases: peak of live bytes, time, arithmetic",
      table(phases.map((phase) => phaseRow(answer, phase))),
      ...(hiddenShare === undefined
        ? []
        : [
            `${Math.round(100 * hiddenShare)} % of the time of copies from and to the host is hidden behind computing.`,
          ]),
      ...(attention ? [`Attention kernel: ${attentionWords(attention)}.`] : []),
    ].join("\n"),
    ...(plan.fits ? [yamlText(answer)] : []),
  ].join("\n\n");
}

function partsText(answer: Answer): string {
  const { asked, plan, fastest } = answer;
  const which = !plan.fits ? " (the leanest plan)" : fastest ? " (least memory)" : "";
  const parts = Object.entries(plan.parts).filter(
    ([, bytes]) => bytes >= Math.min(SHOWN_BYTES, plan.deviceBytes / 200),
  );
  return [
    `What uses the ${elsewhere(asked.device).device} at the peak of a step${which}; every allocation of a dry run is counted (docs/memory.md):`,
    table(
      parts.map(([name, bytes]) => [
        `  ${PART_TITLES[name] ?? name}`,
        gib(bytes),
        bar(bytes / plan.deviceBytes, BAR_COLUMNS).padEnd(BAR_COLUMNS),
        TENSORS[name]?.(answer) ?? "",
      ]),
    ),
  ].join("\n");
}

function howText(answer: Answer): string {
  const { plan, asked } = answer;
  const groups = concessionGroups(plan.policy, asked.model.config, placesOf(answer).where);
  return groups.length === 0
    ? "Every layer keeps its values for the backward pass; nothing is computed again."
    : ["How it is done (results stay the same, except for rounding):", ...groups.flatMap(groupLines)].join(
        "\n",
      );
}

/** One way of saving memory: its name, then what is saved that way, in lines of a terminal's width. */
function groupLines([heading, items]: [string, string[]]): string[] {
  const lines = [""];
  for (const [index, item] of items.entries()) {
    const piece = index < items.length - 1 ? `${item}, ` : item;
    if (lines.at(-1)!.length + piece.length > GROUP_COLUMNS && lines.at(-1) !== "") lines.push("");
    lines[lines.length - 1] += piece;
  }
  const width = Math.max(HEADING_COLUMNS, heading.length);
  return lines.map((line, index) => `  ${(index === 0 ? heading : "").padEnd(width)}  ${line.trimEnd()}`);
}

/** With its heading a line takes about 100 columns. */
const GROUP_COLUMNS = 84;
const HEADING_COLUMNS = 14;

function alternativesText(answer: Answer): string {
  const { asked, alternatives = [] } = answer;
  const { where, column } = placesOf(answer);
  const isOpen = asked.limits.deviceBytes === undefined;
  const rows = alternatives.map((other, index) => {
    const telling = { beyond: alternatives[index - 1]?.policy, where };
    const added = concessionsOf(other.policy, asked.model.config, telling).join("; ");
    return [
      ...(isOpen ? [] : [`  ${fitWords(answer, other)}`]),
      gib(other.deviceBytes),
      other.hostBytes >= SHOWN_BYTES ? `+ ${gib(other.hostBytes)} ${column}` : "",
      formatDuration(other.time.microBatchMs),
      index === 0 ? added : `also ${added || LEAN_REST}`,
    ];
  });
  return [
    "Slower options with less memory, each with all changes of the lines above it; memory, time of a micro-batch:",
    table(rows),
  ].join("\n");
}

function fitWords(answer: Answer, { fits, deviceBytes }: PlanSummary): string {
  if (fits) return "fits";
  const { limits } = answer.asked;
  if (deviceBytes > (limits.deviceBytes ?? Number.POSITIVE_INFINITY)) return "too large";
  return limits.sumBytes === undefined ? `too much ${placesOf(answer).column}` : "too much in all";
}

function roomText({ asked, plan, details }: Answer): string {
  const { deviceBytes = 0 } = asked.limits;
  const spare = `Room to spare: ${formatBytes(Math.max(0, deviceBytes - plan.deviceBytes))}.`;
  const { room = [] } = details!;
  if (room.length === 0) return spare;
  return [
    `${spare} With the leanest policy, all of the ${formatBytes(deviceBytes)} would be enough for, each alone:`,
    waysTable(asked, room),
  ].join("\n");
}

function leversText(asked: Asked, levers: Levers, { workload }: PlanSummary): string {
  const { perThousandTokens, perRank, perSample, withoutCheckpointing, eightBit } = levers;
  const rows: [string, string][] = [
    ["max_length", `${signed(perThousandTokens)} per 1,000 tokens`],
    ["lora_r", `${signed(perRank)} per unit of rank`],
    ["lora_alpha", alphaLever(workload)],
    ["gradient checkpointing", `without it, when no layer is recomputed: ${signed(withoutCheckpointing)}`],
    ["batch size", `${signed(perSample)} per further sample of ${formatCount(workload.maxLength)} tokens`],
    ["gradient accumulation", accumulationWords(asked, levers, workload)],
    ...(eightBit ? [eightBitRow(asked, eightBit)] : []),
    ...visionRow(asked, levers.vision),
  ];
  return [
    "Cost of increasing each setting (all layers recomputed):",
    table(rows.map(([name, words]) => [`  ${name}`, words])),
  ].join("\n");
}

const NEVER_CHOSEN = "changes results a little, so never chosen for you";

function eightBitRow(asked: Asked, eightBit: BytesChanged): [string, string] {
  return [
    "optimizer in 8 bits",
    `${added(asked, eightBit)}; ${NEVER_CHOSEN}: optimizer precision 8bit in a --policy`,
  ];
}

function visionRow(asked: Asked, kinds: Levers["vision"]): [string, string][] {
  const worth = kinds.filter(({ deviceBytes, hostBytes }) => Math.min(deviceBytes, hostBytes) < -MIB);
  if (worth.length === 0) return [];
  const saved = worth.map((kind) => `in ${kind.visionBase} ${added(asked, kind)}`);
  return [["vision tower", `${saved.join("; ")}; ${NEVER_CHOSEN}: --vision-base`]];
}

function added({ device }: Asked, { deviceBytes, hostBytes }: BytesChanged): string {
  const host =
    Math.abs(hostBytes) > Math.abs(deviceBytes) ? `, and ${signed(hostBytes)} ${elsewhere(device).of}` : "";
  return `${signed(deviceBytes)}${host}`;
}

function accumulationWords(
  { device }: Asked,
  { gradientCopy }: Levers,
  { accumulation = 1 }: PlanSummary["workload"],
): string {
  const { bytes, place } = gradientCopy;
  const where = place === "host" ? elsewhere(device).where : "beside them, as the host has no room for it";
  const counted = accumulation > 1 ? `, included here for ${accumulation} micro-batches a step` : "";
  return `a copy of the gradients ${where}, ${formatBytes(bytes)}${counted}`;
}

function phaseRow(answer: Answer, phase: NonNullable<Answer["details"]>["phases"][number]): string[] {
  const { name, devicePeakBytes, hostPeakBytes, ms, flops } = phase;
  return [
    `  ${name}`,
    gib(devicePeakBytes),
    hostPeakBytes >= SHOWN_BYTES ? `+ ${gib(hostPeakBytes)} ${placesOf(answer).column}` : "",
    ms === undefined ? "" : formatDuration(ms),
    `${(flops / 1e12).toFixed(1)} TFLOP`,
  ];
}

function yamlText(answer: Answer): string {
  const yaml = stringify({ ...trainOptionsOf(answer), policy: answer.plan.policy }, { lineWidth: 0 });
  return [
    `The command as a file with the policy spelled out (${commandLine("train --config train.yaml")}); without \`policy\` a run chooses again, by your data:`,
    yaml.trimEnd().replaceAll(/^/gm, "  "),
  ].join("\n");
}

/** Which of lorafit's measures saves how much of what the official schedule needs, step by step. */
export function comparisonText(answer: Answer): string {
  const { asked, official } = answer;
  const rows = savings(answer);
  const most = Math.max(...rows.map(({ bytes }) => bytes));
  const { deviceBytes } = asked.limits;
  const fits = official!.fits ? "fits" : "does not fit";
  const verdict = deviceBytes === undefined ? "" : `, which ${fits} ${formatBytes(deviceBytes)}`;
  return [
    `The official recipe's schedule needs ${formatBytes(official!.deviceBytes)} at the same sizes${verdict}. Step by step:`,
    table(
      rows.map(({ what, bytes, savedBytes }, index) => [
        `  ${gib(bytes)}`,
        index === 0 ? "" : signed(-savedBytes).padStart(10),
        bar(bytes / most, BAR_COLUMNS).padEnd(BAR_COLUMNS),
        what,
      ]),
    ),
  ].join("\n");
}

/** One schedule: what it does, its bytes, and what it saves against the one before. */
export interface Saving {
  what: string;
  bytes: number;
  savedBytes: number;
}

/** Returns the official schedule and then lorafit's policies from fast to lean. */
export function savings({ asked, official, alternatives = [] }: Answer): Saving[] {
  const { config } = asked.model;
  const { where } = elsewhere(asked.device);
  const steps = [
    {
      what: "official recipe: gradient checkpointing, all logits in float32, everything on the card",
      bytes: official!.deviceBytes,
    },
    ...alternatives.map(({ policy, deviceBytes }, index) => {
      const before = alternatives[index - 1]?.policy;
      const changes =
        before && (concessionsOf(policy, config, { beyond: before, where }).join("; ") || LEAN_REST);
      return { what: changes ?? FIRST_STEP, bytes: deviceBytes };
    }),
  ];
  return steps.map(({ what, bytes }, index) => ({
    ...{ what, bytes },
    savedBytes: (steps[index - 1]?.bytes ?? bytes) - bytes,
  }));
}

const FIRST_STEP =
  "lorafit: attention and MLP one after the other, logits in parts, no second copy of the gradients";
