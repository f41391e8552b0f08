/** A plan in words: headline, where the memory goes, what else there is to choose, what each lever costs, and the command that does it. */
import { totalmem } from "node:os";
import { stringify } from "yaml";
import { pictureTokens } from "../../data/pictures/image.ts";
import { formatBytes, formatCount, writtenBytes } from "../../errors.ts";
import { PRESETS } from "../../models/families.ts";
import { DIALOGUE_TOKENS, largestGrid } from "../../plan/dryRun/batchShapes.ts";
import type { DryRun } from "../../plan/dryRun/dryRun.ts";
import type { Plan, Workload } from "../../plan/planner.ts";
import { concessionGroups, concessionsOf } from "../../plan/policyWords.ts";
import { fastestPlan, leastMemory } from "../../plan/search.ts";
import { commandLine, quoted } from "../../program.ts";
import { DEFAULT_RECIPE } from "../../train/options/recipes.ts";
import { bar, formatDuration, table } from "../output/output.ts";
import { type Answer, alternativesOf, leversOf, partsOf, supervisedOf } from "./answer.ts";
import { cardsText } from "./commonCards.ts";
import { comparisonText } from "./compareOfficial.ts";
import { explanation, plannedAttention } from "./explain.ts";
import { leversText } from "./levers.ts";
import { spareRoom, wayOut } from "./otherWays.ts";
import { isUnlimited, type Question } from "./question.ts";
import {
  baseName,
  besideIt,
  cautions,
  elsewhere,
  gib,
  largestOf,
  SHOWN_BYTES,
  withArticle,
} from "./words.ts";

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

/** What `lorafit plan` prints for people. */
export function planText(question: Question, answer: Answer): string {
  const { plan } = answer;
  return [
    titleOf(question, plan),
    "",
    overview(question, answer),
    ...solvedFor(question, answer),
    ...cautionsOf(question, plan),
    ...warningOf(plan),
    ...timesOf(question, plan),
    ...kernelOf(question, plan),
    "",
    ...(answer.cards ? [cardsText(answer.cards), ""] : []),
    recommended(question, plan),
    "",
    alternatives(question, plan),
    "",
    ...(isUnlimited(question) ? [] : [plan.fits ? spareRoom(question, plan) : wayOut(question, plan), ""]),
    leversText(question, leversOf(question, plan), plan),
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
    value === FOLDER ? value : quoted(String(value)),
  ]);
  const { fixed } = question;
  if (fixed.policy || fixed.weights) flags.push("--policy", `'${JSON.stringify(policy)}'`);
  return commandLine(`train ${flags.join(" ")}`);
}

/** For a user to fill in. */
const FOLDER = "<folder>";

function trainOptionsOf({ options, limits }: Question, workload: Workload): Record<string, string | number> {
  return {
    model: options.model in PRESETS ? FOLDER : options.model,
    data: "data.txt",
    ...(options.recipe !== DEFAULT_RECIPE && { recipe: options.recipe }),
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
    ...(options.vision_base !== undefined && { vision_base: options.vision_base }),
    ...(options.device === "cpu" && { device: "cpu" }),
  };
}

/** An amount as an option takes it, to the byte: a plan may fill it. */
function amountOf(bytes: number): string {
  return bytes === 0 ? "0" : writtenBytes(bytes);
}

/** What is planned, and for what. */
export function titleOf({ options, card, device, limits, planner }: Question, { workload }: Plan): string {
  const name = options.model in PRESETS ? "InternLM-XComposer2-4KHD" : options.model;
  const vision = planner.visionBase === "bf16" ? "" : `, ${planner.visionBase} vision tower`;
  const what = `${name}, ${baseName(planner)} base${vision}, LoRA r ${formatCount(workload.rank)}, ${pictureOf(workload)}, max_length ${formatCount(workload.maxLength)}, batch size ${formatCount(workload.batchSize)}`;
  const memory = Number.isFinite(limits.budgetBytes) ? `${formatBytes(limits.budgetBytes)} of ` : "";
  if (!card)
    return `${what}\n${memory}memory on this machine's CPU, as --memory counts it; what is set aside lies in the same machine's memory, of ${formatBytes(totalmem())} in all, beside it`;
  const isAll = (options.memory ?? 0) > limits.budgetBytes;
  if (options.gpu !== undefined)
    return `${what}\n${memory}VRAM on ${withArticle(device)}${isAll ? ", which has no more" : ""}`;
  return `${what}\n${memory}VRAM; no --gpu is given, so times are those of ${withArticle(card.title)}`;
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
  if (!isUnlimited(question) && plan.fits) last.push(markOf(question, isLeast));
  return table(rows);
}

function markOf({ options }: Question, isLeast: boolean): string {
  if (options.solve === "memory") return "<- the least, as asked";
  return isLeast ? "<- recommended: nothing faster fits" : "<- fastest that fits";
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
    ...(isUnlimited(question) ? [] : [fits ? "fits" : "does not fit"]),
    stepMs === undefined ? "" : `~${formatDuration(stepMs)} a micro-batch`,
    besideIt(question, { run }),
  ];
}

function solvedFor({ options }: Question, { solved, plan }: Answer): string[] {
  if (solved === undefined) return [];
  if (solved === null) return ["", "Nothing fits, however small it is made."];
  const { solve } = options;
  if (solve === undefined || solve === "memory")
    return ["", `The least memory: ${gib(plan.run.budgetedBytes).trim()}`];
  return ["", `The largest ${solve} that fits: ${largestOf(solve, solved)}`];
}

/** Sizes that fit, and that nobody should want. */
function cautionsOf(question: Question, plan: Plan): string[] {
  const lines = cautions(question, plan.workload);
  return lines.length > 0 ? ["", ...lines.map((line) => `Mind: ${line}`)] : [];
}

function pictureOf({ hdNum, imageShare }: Workload): string {
  return imageShare === undefined
    ? `hd_num ${formatCount(hdNum)} (up to ${formatCount(pictureTokens([largestGrid(hdNum)]))} image tokens)`
    : `${Math.round(imageShare * 100)} % image tokens`;
}

function recommended(question: Question, plan: Plan): string {
  const { card, planner } = question;
  const parts = partsOf({ run: plan.run, card });
  const most = plan.run.budgetedBytes;
  const rows = PARTS.map(([title, names]) => ({
    title: card ? title : title.replace("CUDA context, ", ""),
    bytes: names.reduce((sum, name) => sum + (parts[name] ?? 0), 0),
  })).filter(({ bytes }) => bytes >= Math.min(SHOWN_BYTES, most / 200));
  const given = concessionGroups(plan.policy, planner.config, elsewhere(question).where);
  const which = !plan.fits ? " (the leanest there is)" : isUnlimited(question) ? " (least memory)" : "";
  return [
    `What fills the ${card ? "VRAM" : "memory"} at the peak of a step${which}`,
    table(rows.map(({ title, bytes }) => [`  ${title}`, gib(bytes), bar(bytes / most, BAR_COLUMNS)])),
    ...(given.length > 0
      ? [
          "How it is done; but for rounding, nothing of it changes what is learned:",
          ...given.flatMap(groupLines),
        ]
      : ["Every layer keeps its values for the backward pass; nothing is computed again."]),
  ].join("\n");
}

/** One way of saving memory: its name, and what goes that way, in lines of a terminal's width. */
function groupLines([heading, items]: [string, string[]]): string[] {
  const lines = [""];
  for (const [index, item] of items.entries()) {
    const piece = index < items.length - 1 ? `${item}, ` : item;
    if (lines.at(-1)!.length + piece.length > GROUP_COLUMNS && lines.at(-1) !== "") lines.push("");
    lines[lines.length - 1] += piece;
  }
  return lines.map((line, index) => `  ${(index === 0 ? heading : "").padEnd(14)}  ${line.trimEnd()}`);
}

/** With its heading a line takes 100 columns or little more. */
const GROUP_COLUMNS = 84;

function alternatives(question: Question, plan: Plan): string {
  const others = alternativesOf(question, plan);
  const { config } = question.planner;
  const { where, column } = elsewhere(question);
  const rows = others.map((other, index) => {
    const telling = { beyond: others[index - 1]?.policy, where };
    const added = concessionsOf(other.policy, config, telling).join("; ");
    return [
      ...(isUnlimited(question) ? [] : [`  ${fitOf(question, other)}`]),
      gib(other.run.budgetedBytes),
      other.run.hostBytes >= SHOWN_BYTES ? `+ ${gib(other.run.hostBytes)} ${column}` : "",
      formatDuration(other.stepMs),
      index === 0 ? added : `also ${added || "smaller parts of the loss and of pictures"}`,
    ];
  });
  return [
    "Other policies, from fast to lean, each doing more for memory than the line before; memory, time a micro-batch:",
    table(rows),
  ].join("\n");
}

function fitOf(question: Question, { fits, run }: Plan): string {
  if (fits) return "fits";
  return run.budgetedBytes > question.limits.budgetBytes
    ? "too large"
    : `too much ${elsewhere(question).column}`;
}

/** Why there is nothing to train with, in a sentence. */
export function misfitOf({ limits }: Question, { run }: Plan): string {
  const short = [
    { needed: run.budgetedBytes, given: limits.budgetBytes, of: "" },
    { needed: run.hostBytes, given: limits.hostBytes, of: " of the host" },
  ].filter(({ needed, given }) => needed > given);
  return short
    .map(
      ({ needed, given, of }) => `at least ${formatBytes(needed)}${of} are needed, of ${formatBytes(given)}`,
    )
    .join("; ");
}

/** A picture that leaves nothing to learn of a sample. */
function warningOf(plan: Plan): string[] {
  const { maxLength, hdNum, imageShare } = plan.workload;
  const worst = pictureTokens([largestGrid(hdNum)]);
  if (imageShare !== undefined || worst + 2 <= maxLength) return [];
  return [
    "",
    `Warning: a picture at hd_num ${hdNum} takes up to ${formatCount(worst)} tokens, so max_length ${formatCount(maxLength)} would leave no token to learn of such a sample.`,
    `Pass --max-length ${worst + DIALOGUE_TOKENS}${hdNum > 1 ? " or a lower --hd-num" : ""}. The plan below has ${supervisedOf(plan).pictureTokens > 0 ? "the largest picture that leaves room for text" : "no picture, as none leaves room for text"}.`,
  ];
}

/** What times are of, and where they come from. */
function timesOf({ card, doubt }: Question, { workload: { accumulation = 1 } }: Plan): string[] {
  const source = card ? "from the card's data sheet, none was timed" : "by what was measured of this CPU";
  const step =
    accumulation > 1 ? `${accumulation} micro-batches and an update` : "a micro-batch and an update";
  return [
    "",
    `Times are ${source}; a step of training is ${step}.`,
    ...(doubt
      ? [`They are doubtful: ${doubt}. A plan in ten minutes or more, on a quiet machine, measures again.`]
      : []),
  ];
}

/** The attention kernel, where it is not the rule's; --explain has it in any case. */
function kernelOf(question: Question, plan: Plan): string[] {
  return question.timed && !question.options.explain
    ? ["", `Attention kernel: ${plannedAttention(question, plan)}.`]
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
  const train = plan.fits
    ? `Train with it:  ${trainCommand(question, plan)}`
    : "As asked it does not fit, so there is no command to train with yet.";
  if (!question.options.explain)
    return `${train}\nWhy these numbers:  --explain      As a page with charts:  --html plan.html`;
  const yaml = stringify(
    { ...trainOptionsOf(question, plan.workload), policy: plan.policy },
    { lineWidth: 0 },
  );
  return [
    train,
    "",
    `The same as a file, with the policy spelled out (${commandLine("train --config train.yaml")}); --memory alone chooses again, by your data:`,
    yaml.trimEnd().replaceAll(/^/gm, "  "),
  ].join("\n");
}
