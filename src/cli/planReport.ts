/** A plan in words: headline, where the memory goes, what else there is to choose, what each lever costs, and the command that does it. */
import { stringify } from "yaml";
import { formatBytes, formatCount } from "../errors.ts";
import { PRESETS } from "../models/spec.ts";
import { largestGrid, pictureTokens } from "../plan/batch.ts";
import type { DryRun } from "../plan/dryRun.ts";
import { ALL_CHECKPOINTED, concessionsOf } from "../plan/policyWords.ts";
import { fastestPlan, leastMemory, type Plan, type Workload } from "../plan/search.ts";
import { layerPolicies } from "../step/policy.ts";
import {
  type Answer,
  alternativesOf,
  type EightBit,
  eightBitOf,
  type Levers,
  leversOf,
  partsOf,
  roomFor,
  supervisedOf,
} from "./planAnswer.ts";
import { comparisonText } from "./planCompare.ts";
import { explanation, gib, SHOWN_BYTES } from "./planExplain.ts";
import { isUnlimited, type Question } from "./planQuestion.ts";
import { bar, formatDuration, table } from "./report.ts";

const GIB = 2 ** 30;
const BAR_COLUMNS = 36;

/** Names of categories for people; those that belong together stand together. */
const PARTS: readonly [title: string, parts: readonly string[]][] = [
  ["frozen model", ["weights"]],
  ["LoRA, its gradients, optimizer", ["loraParameters", "loraGradients", "optimizerState"]],
  ["kept for the backward pass", ["boundaryActivations"]],
  ["the layer being computed", ["workingSet", "loss"]],
  ["input data, vision", ["inputData", "visionFeatures"]],
  ["CUDA context, workspaces, rounding", ["workspace", "context", "allocator"]],
];

export function planText(question: Question, answer: Answer): string {
  const { plan } = answer;
  return [
    titleOf(question, plan),
    "",
    overview(question, answer),
    ...solvedFor(question, answer),
    ...warningOf(plan),
    ...doubtOf(question),
    "",
    recommended(question, plan),
    "",
    alternatives(question, plan),
    "",
    ...(isUnlimited(question) ? [] : [plan.fits ? spareRoom(question, plan) : wayOut(question, plan), ""]),
    levers(leversOf(question, plan), plan),
    "",
    supervised(plan),
    ...(question.options.compare === "official" && answer.official
      ? ["", comparisonText(question, plan, answer.official)]
      : []),
    ...(question.options.explain ? ["", explanation(question, plan)] : []),
    ...(question.card?.note ? ["", `About this card: ${question.card.note}`] : []),
    "",
    closing(question, plan),
  ].join("\n");
}

/** What `lorafit train` has to be told to do as planned; a policy that it would not choose by itself is spelled out. */
export function trainCommand(question: Question, { workload, policy }: Plan): string {
  const flags = Object.entries(trainOptionsOf(question, workload)).flatMap(([key, value]) => [
    `--${key.replaceAll("_", "-")}`,
    String(value),
  ]);
  const { fixed } = question;
  if (fixed.policy || fixed.weights) flags.push("--policy", `'${JSON.stringify(policy)}'`);
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
    ...(options.gradient_accumulation !== undefined && {
      gradient_accumulation: options.gradient_accumulation,
    }),
    ...(Number.isFinite(limits.budgetBytes) && { memory: amountOf(limits.budgetBytes) }),
    ...(Number.isFinite(limits.hostBytes) && { host_memory: amountOf(limits.hostBytes) }),
    ...(options.base !== undefined && { base: options.base }),
    ...(options.head_base !== undefined && { head_base: options.head_base }),
    ...(options.device === "cpu" && { device: "cpu" }),
  };
}

/** An amount as an option takes it, never rounded up. */
function amountOf(bytes: number): string {
  const gib = Math.floor((bytes / GIB) * 10) / 10;
  if (bytes === 0) return "0";
  return gib >= 1 ? `${gib}GiB` : `${Math.floor(bytes / 2 ** 20)}MiB`;
}

const SHORT_NAMES = { float32: "fp32", bfloat16: "bf16", float16: "fp16" } as const;

/** What is planned, and for what. */
export function titleOf({ options, card, device, limits, planner }: Question, { workload }: Plan): string {
  const name = options.model in PRESETS ? "InternLM-XComposer2-4KHD" : options.model;
  const base = options.base ?? SHORT_NAMES[planner.dtype];
  const what = `${name}, ${base} base, LoRA r ${workload.rank}, ${pictureOf(workload)}, max_length ${formatCount(workload.maxLength)}, batch size ${workload.batchSize}`;
  const memory = Number.isFinite(limits.budgetBytes) ? `${formatBytes(limits.budgetBytes)} of ` : "";
  if (!card) return `${what}\n${memory}memory on this machine's CPU`;
  if (options.gpu !== undefined) return `${what}\n${memory}VRAM on a ${device}`;
  return `${what}\n${memory}VRAM; no --gpu is given, so times are those of a ${card.title}`;
}

/** The official schedule, the least that lorafit needs, and what it recommends: a line each. */
export function overview(question: Question, { plan, official }: Answer): string {
  const { planner, limits, fixed } = question;
  const least = leastMemory(planner, plan.workload, limits, fixed);
  const fastest = isUnlimited(question) ? fastestPlan(planner, plan.workload, limits, fixed) : plan;
  const rows = [
    ...(official
      ? [overviewRow(question, "official recipe, at least", official, official.budgetedBytes)]
      : []),
    overviewRow(question, "lorafit, least memory", least.run, least.run.budgetedBytes, least.stepMs),
  ];
  const isLeast = fastest.run.budgetedBytes === least.run.budgetedBytes;
  if (!isLeast) {
    const what = isUnlimited(question) ? "lorafit, fastest" : "lorafit, recommended";
    rows.push(overviewRow(question, what, fastest.run, fastest.run.budgetedBytes, fastest.stepMs));
  }
  const last = rows.at(-1)!;
  if (!isUnlimited(question) && plan.fits)
    last.push(isLeast ? "<- recommended: nothing faster fits" : "<- fastest that fits");
  return table(rows);
}

function overviewRow(
  question: Question,
  what: string,
  run: DryRun,
  bytes: number,
  stepMs?: number,
): string[] {
  const { budgetBytes, hostBytes } = question.limits;
  const fits = bytes <= budgetBytes && run.hostBytes <= hostBytes;
  return [
    `  ${what}`,
    gib(bytes),
    isUnlimited(question) ? "" : fits ? "fits" : "does not fit",
    stepMs === undefined ? "" : `~${formatDuration(stepMs)} a step`,
    run.hostBytes >= SHOWN_BYTES ? `and ${gib(run.hostBytes).trim()} of RAM` : "",
  ];
}

function solvedFor({ options }: Question, { solved, plan }: Answer): string[] {
  if (solved === undefined) return [];
  if (solved === null) return ["", "Nothing fits, however small it is made."];
  const what = options.solve === "memory" ? "The least memory" : `The largest ${options.solve} that fits`;
  const value = options.solve === "memory" ? formatBytes(plan.run.budgetedBytes) : formatCount(solved);
  return ["", `${what}: ${value}`];
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
    title: card ? title : title.replace("CUDA context, ", ""),
    bytes: names.reduce((sum, name) => sum + (parts[name] ?? 0), 0),
  })).filter(({ bytes }) => bytes >= Math.min(SHOWN_BYTES, most / 200));
  const keeps = layerPolicies(plan.policy, planner.config).some(({ keep }) => keep !== "nothing");
  const given = [...(keeps ? [] : [ALL_CHECKPOINTED]), ...concessionsOf(plan.policy, planner.config)];
  return [
    `What fills the ${card ? "VRAM" : "memory"} at the peak of a step${plan.fits ? "" : " (the leanest there is)"}`,
    table(rows.map(({ title, bytes }) => [`  ${title}`, gib(bytes), bar(bytes / most, BAR_COLUMNS)])),
    "How it is done; nothing of it changes what is learned:",
    ...given.map((what) => `  - ${what}`),
  ].join("\n");
}

function alternatives(question: Question, plan: Plan): string {
  const others = alternativesOf(question, plan);
  const { config } = question.planner;
  const rows = others.map((other, index) => {
    const added = concessionsOf(other.policy, config, others[index - 1]?.policy).join("; ");
    return [
      other.fits ? "  fits" : "  too large",
      gib(other.run.budgetedBytes),
      other.run.hostBytes >= SHOWN_BYTES ? `+ ${gib(other.run.hostBytes)} RAM` : "",
      formatDuration(other.stepMs),
      index === 0
        ? added || ALL_CHECKPOINTED
        : `also ${added || "smaller parts of the loss and of pictures"}`,
    ];
  });
  return [
    "Alternatives, each giving up a little more than the line before; memory, time a step:",
    table(rows),
  ].join("\n");
}

function spareRoom(question: Question, plan: Plan): string {
  const spareBytes = question.limits.budgetBytes - plan.run.budgetedBytes;
  return [
    `Room to spare: ${formatBytes(Math.max(0, spareBytes))}. With the leanest policy it would be enough for, each alone:`,
    ...mostOf(question, plan),
  ].join("\n");
}

/** What to change where nothing fits. */
function wayOut(question: Question, plan: Plan): string {
  const ways = [...mostOf(question, plan), ...eightBitWay(question, plan)];
  if (ways.length > 0) return ["What would fit, each alone:", ...ways].join("\n");
  const hasHost = Number.isFinite(question.limits.hostBytes) || question.fixed.weights === "resident";
  return `Neither a shorter max_length nor a lower rank makes it fit.${hasHost ? " Leave --host-memory and --weights resident out, or pass --base nf4." : ""}`;
}

/** The nearest policy with moments in 8 bits, where that is enough. */
function eightBitWay(question: Question, plan: Plan): string[] {
  const found = eightBitOf(question, plan);
  if (!found?.plan.fits) return [];
  const { policy, run } = found.plan;
  return [
    `  --policy '${JSON.stringify(policy)}': optimizer moments in 8 bits, ${formatBytes(run.budgetedBytes)}; changes results a little`,
  ];
}

function mostOf(question: Question, plan: Plan): string[] {
  return (["max-length", "lora-r"] as const).flatMap((unknown) => {
    const value = roomFor(question, plan, unknown);
    return value === undefined ? [] : [`  --${unknown.padEnd(10)}  up to ${formatCount(value)}`];
  });
}

function levers(
  { perThousandTokens, perRank, perSample, withoutCheckpointing, eightBit, gradientCopy }: Levers,
  { workload }: Plan,
): string {
  const rows = [
    ["max_length", `${signed(perThousandTokens)} per 1,000 tokens`],
    ["lora_r", `${signed(perRank)} per unit of rank (4 to 32 is usual)`],
    ["lora_alpha", `costs nothing: keep it at 1 to 2 x r, ${workload.rank} to ${2 * workload.rank} here`],
    ["gradient checkpointing", `switching it off (no layer computed again): ${signed(withoutCheckpointing)}`],
    ["batch size", `${signed(perSample)} per further sample of ${formatCount(workload.maxLength)} tokens`],
    ["gradient accumulation", accumulationLever(gradientCopy, workload)],
    ...(eightBit ? [["optimizer in 8 bits", eightBitLever(eightBit)]] : []),
  ];
  return [
    "Levers, with every layer computed again in the backward:",
    table(rows.map(([name, what]) => [`  ${name}`, what!])),
  ].join("\n");
}

function eightBitLever({ deviceBytes, hostBytes }: EightBit): string {
  const ram = Math.abs(hostBytes) >= SHOWN_BYTES ? ` and ${signed(hostBytes)} of RAM` : "";
  return `${signed(deviceBytes)}${ram}; changes results a little, so only a --policy whose optimizer's precision is 8bit has it`;
}

function accumulationLever({ bytes, place }: Levers["gradientCopy"], { accumulation = 1 }: Workload): string {
  const where = place === "host" ? "in RAM" : "beside them, as the host has no room for it";
  const counted = accumulation > 1 ? `, counted here for ${accumulation} micro-batches a step` : "";
  return `a copy of the gradients ${where}, ${formatBytes(bytes)}${counted}`;
}

/** A picture that leaves nothing to learn of a sample. */
function warningOf({ workload: { maxLength, hdNum, imageShare } }: Plan): string[] {
  const worst = pictureTokens([largestGrid(hdNum)]);
  if (imageShare !== undefined || worst + 2 <= maxLength) return [];
  return [
    "",
    `Warning: a picture at hd_num ${hdNum} takes up to ${formatCount(worst)} tokens, so max_length ${formatCount(maxLength)} would leave no token to learn of such a sample.`,
    `Pass --max-length ${worst + 256} or a lower --hd-num. The plan below has the largest picture that leaves room for text.`,
  ];
}

function doubtOf({ doubt }: Question): string[] {
  return doubt
    ? ["", `Times are doubtful: ${doubt}. A plan in ten minutes or more, on a quiet machine, measures again.`]
    : [];
}

function supervised(plan: Plan): string {
  const { maxLength, hdNum, imageShare } = plan.workload;
  const { pictureTokens: picture, textTokens } = supervisedOf(plan);
  if (imageShare !== undefined)
    return `Of ${formatCount(maxLength)} tokens ${formatCount(picture)} are picture; at most ${formatCount(textTokens)} are text that can be learned.`;
  const worst = pictureTokens([largestGrid(hdNum)]);
  if (worst + 2 > maxLength)
    return `As planned, ${formatCount(textTokens)} of ${formatCount(maxLength)} tokens are text.`;
  return `A picture at hd_num ${hdNum} takes up to ${formatCount(worst)} tokens; of max_length ${formatCount(maxLength)} that leaves ${formatCount(maxLength - worst)} for question and answer, which is the most that can be learned of a sample.`;
}

function closing(question: Question, plan: Plan): string {
  const train = `Train with it:  ${trainCommand(question, plan)}`;
  if (!question.options.explain)
    return `${train}\nWhy these numbers:  --explain      As a page with charts:  --html plan.html`;
  const yaml = stringify(
    { ...trainOptionsOf(question, plan.workload), policy: plan.policy },
    { lineWidth: 0 },
  );
  return [
    train,
    "",
    "The same as a file, with the policy spelled out (lorafit train --config train.yaml); --memory alone finds it too:",
    yaml.trimEnd().replaceAll(/^/gm, "  "),
  ].join("\n");
}

function signed(bytes: number): string {
  return `${bytes < 0 ? "-" : "+"}${(Math.abs(bytes) / GIB).toFixed(3)} GiB`;
}
