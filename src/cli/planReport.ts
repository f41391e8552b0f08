/** A plan in words: headline, where the memory goes, what else there is to choose, what each lever costs, and the command that does it. */
import { stringify } from "yaml";
import { formatBytes, formatCount } from "../errors.ts";
import { PRESETS } from "../models/spec.ts";
import { largestGrid, pictureTokens } from "../plan/batch.ts";
import { phaseMs } from "../plan/dryRun.ts";
import { concessionsOf } from "../plan/ladder.ts";
import type { Plan, Workload } from "../plan/search.ts";
import {
  type Answer,
  alternativesOf,
  type Levers,
  leversOf,
  partsOf,
  roomFor,
  supervisedOf,
} from "./planAnswer.ts";
import { comparisonText } from "./planCompare.ts";
import { isUnlimited, type Question } from "./planQuestion.ts";
import { bar, formatDuration, table } from "./report.ts";

const GIB = 2 ** 30;
const BAR_COLUMNS = 36;

/** Names of categories for people; those that belong together stand together. */
const PARTS: readonly [title: string, parts: readonly string[]][] = [
  ["frozen base", ["weights"]],
  ["LoRA, gradients, optimizer", ["loraParameters", "loraGradients", "optimizerState"]],
  ["boundary activations", ["boundaryActivations"]],
  ["working set", ["workingSet", "loss"]],
  ["input data, vision", ["inputData", "visionFeatures"]],
  ["CUDA context, workspaces, rounding", ["workspace", "context", "allocator"]],
];

export function planText(question: Question, answer: Answer): string {
  const { plan } = answer;
  return [
    headline(question, answer),
    "",
    recommended(question, plan),
    "",
    alternatives(question, plan),
    "",
    ...(plan.fits && !isUnlimited(question) ? [spareRoom(question, plan), ""] : []),
    levers(leversOf(question, plan), plan),
    "",
    supervised(plan),
    ...(answer.official ? ["", comparisonText(question, plan, answer.official)] : []),
    ...(question.options.explain ? ["", explained(question, plan)] : []),
    ...(question.card?.note ? ["", `About this card: ${question.card.note}`] : []),
    "",
    closing(question, plan),
  ].join("\n");
}

/** What `lorafit train` has to be told to do as planned. */
export function trainCommand(question: Question, { workload }: Plan): string {
  const flags = Object.entries(trainOptionsOf(question, workload)).flatMap(([key, value]) => [
    `--${key.replaceAll("_", "-")}`,
    String(value),
  ]);
  return `npx lorafit train ${flags.join(" ")}`;
}

function trainOptionsOf({ options, limits }: Question, workload: Workload): Record<string, string | number> {
  return {
    model: options.model in PRESETS ? "<folder>" : options.model,
    data: "data.txt",
    lora_r: workload.rank,
    lora_alpha: workload.rank,
    hd_num: workload.hdNum,
    max_length: workload.maxLength,
    ...(workload.batchSize > 1 && { batch_size: workload.batchSize }),
    ...(Number.isFinite(limits.budgetBytes) && { memory: amountOf(limits.budgetBytes) }),
    ...(options.base !== undefined && { base: options.base }),
    ...(options.head_base !== undefined && { head_base: options.head_base }),
    ...(options.device === "cpu" && { device: "cpu" }),
  };
}

/** An amount as an option takes it, never rounded up. */
function amountOf(bytes: number): string {
  const gib = Math.floor((bytes / GIB) * 10) / 10;
  return gib >= 1 ? `${gib}GiB` : `${Math.floor(bytes / 2 ** 20)}MiB`;
}

function headline({ options, device, limits, planner }: Question, { plan, solved }: Answer): string {
  const { workload, run, fits, stepMs } = plan;
  const name = options.model in PRESETS ? "InternLM-XComposer2-4KHD" : options.model;
  const base = options.base ?? (planner.dtype === "bfloat16" ? "bf16" : "fp32");
  const what = `${name} (${base}), LoRA r ${workload.rank}, ${pictureOf(workload)}, max_len ${formatCount(workload.maxLength)}, batch ${workload.batchSize}`;
  const needs = `${formatBytes(run.budgetedBytes)} on ${device}`;
  const time = `about ${formatDuration(stepMs)} a micro-batch`;
  const host = run.hostBytes > 0 ? `, ${formatBytes(run.hostBytes)} of host memory` : "";
  if (solved === null) return `${what}\nNothing fits: even the least of it needs ${needs}${host}.`;
  if (typeof solved === "number" && options.solve !== "memory")
    return `${what}\nThe most that fits: ${options.solve} ${formatCount(solved)}; it takes ${needs}${host}, ${time}.`;
  if (!Number.isFinite(limits.budgetBytes))
    return `${what}\nThe least that it needs: ${needs}${host}, ${time}.`;
  const verdict = fits ? "Fits" : "Does not fit";
  return `${what}\n${verdict} ${formatBytes(limits.budgetBytes)}: ${needs}${host}, ${time}.`;
}

function pictureOf({ hdNum, imageShare }: Workload): string {
  return imageShare === undefined
    ? `hd_num ${hdNum} (up to ${formatCount(pictureTokens([largestGrid(hdNum)]))} image tokens)`
    : `${Math.round(imageShare * 100)} % image tokens`;
}

function recommended({ card, planner }: Question, plan: Plan): string {
  const parts = partsOf({ run: plan.run, card });
  const most = plan.run.budgetedBytes;
  const rows = PARTS.map(([title, names]) => ({
    title,
    bytes: names.reduce((sum, name) => sum + (parts[name] ?? 0), 0),
  })).filter(({ bytes }) => bytes > 0);
  const given = concessionsOf(plan.policy, planner.config);
  return [
    plan.fits ? "Recommended" : "Nearest to it",
    table(rows.map(({ title, bytes }) => [`  ${title}`, gib(bytes), bar(bytes / most, BAR_COLUMNS)])),
    `  policy: ${given.length > 0 ? given.join("; ") : "everything on the card, nothing kept but boundaries"}`,
  ].join("\n");
}

function alternatives(question: Question, plan: Plan): string {
  const rows = alternativesOf(question, plan).map((other) => [
    other.fits ? "  fits" : "  too large",
    gib(other.run.budgetedBytes),
    other.run.hostBytes > 0 ? `+ ${gib(other.run.hostBytes)} host` : "",
    formatDuration(other.stepMs),
    concessionsOf(other.policy, question.planner.config).join("; ") || "gives up nothing but kept layers",
  ]);
  return ["Alternatives: memory, time a micro-batch, what it gives up", table(rows)].join("\n");
}

function spareRoom(question: Question, plan: Plan): string {
  const spareBytes = question.limits.budgetBytes - plan.run.budgetedBytes;
  const most = (["max-length", "lora-r"] as const).map((unknown) => {
    const value = roomFor(question, plan, unknown);
    return `  ${unknown.padEnd(10)}  up to ${value === undefined ? "no more" : formatCount(value)}`;
  });
  return [
    `Room to spare, ${formatBytes(Math.max(0, spareBytes))}. By leaner policies it would take, each alone:`,
    ...most,
  ].join("\n");
}

function levers(
  { perThousandTokens, perRank, perSample, withoutCheckpointing }: Levers,
  { workload }: Plan,
): string {
  const rows = [
    ["max_len", `${signed(perThousandTokens)} per 1,000 tokens`],
    ["lora_r", `${signed(perRank)} per unit of rank (4 to 32 is usual)`],
    ["lora_alpha", `costs nothing: keep it at 1 to 2 x r, ${workload.rank} to ${2 * workload.rank} here`],
    ["gradient checkpointing", `switching it off (no layer computed again): ${signed(withoutCheckpointing)}`],
    [
      "batch size",
      `${signed(perSample)} per further sample of ${formatCount(workload.maxLength)} tokens; gradient accumulation costs nothing`,
    ],
  ];
  return [
    "Levers, with every layer computed again in the backward:",
    table(rows.map(([name, what]) => [`  ${name}`, what!])),
  ].join("\n");
}

function supervised(plan: Plan): string {
  const { maxLength, hdNum, imageShare } = plan.workload;
  const { pictureTokens: picture, textTokens } = supervisedOf(plan);
  if (imageShare !== undefined)
    return `Of ${formatCount(maxLength)} tokens ${formatCount(picture)} are picture; at most ${formatCount(textTokens)} are text that can be learned.`;
  const worst = pictureTokens([largestGrid(hdNum)]);
  if (worst + 2 > maxLength) {
    return `Warning: a picture at hd_num ${hdNum} takes up to ${formatCount(worst)} tokens, so max_len ${formatCount(maxLength)} would leave no token to learn of such a sample. Pass --max-length ${worst + 256} or a lower --hd-num.`;
  }
  return `A picture at hd_num ${hdNum} takes up to ${formatCount(worst)} tokens; of max_len ${formatCount(maxLength)} that leaves ${formatCount(maxLength - worst)} to question and answer, at most so many are supervised.`;
}

/** Phase by phase: what is alive at its peak and how long it takes. */
function explained({ planner }: Question, { run }: Plan): string {
  const rows = run.phases.map((phase) => [
    `  ${phase.name}`,
    gib(phase.devicePeakBytes),
    phase.hostPeakBytes > 0 ? `+ ${gib(phase.hostPeakBytes)} host` : "",
    formatDuration(phaseMs(phase, planner.speed)),
    `${(phase.ops.reduce((sum, { flops, count }) => sum + flops * count, 0) / 1e12).toFixed(1)} TFLOP`,
  ]);
  return [
    "How it comes about: the step's own code ran on the meta device, which allocates and computes nothing.",
    "Phases: live bytes at the peak, time, arithmetic",
    table(rows),
  ].join("\n");
}

function closing(question: Question, plan: Plan): string {
  const yaml = stringify(
    { ...trainOptionsOf({ ...question, limits: question.limits }, plan.workload), policy: plan.policy },
    { lineWidth: 0 },
  );
  return [
    `Train with it:  ${trainCommand(question, plan)}`,
    "",
    "The same as a file, with the policy spelled out (lorafit train --config train.yaml):",
    yaml.trimEnd().replaceAll(/^/gm, "  "),
  ].join("\n");
}

function gib(bytes: number): string {
  return `${(bytes / GIB).toFixed(2).padStart(6)} GiB`;
}

function signed(bytes: number): string {
  return `${bytes < 0 ? "-" : "+"}${(Math.abs(bytes) / GIB).toFixed(3)} GiB`;
}
