/** The answer in at most 15 lines: whether it fits, memory, time, and the command. */

import type { Answer, Asked } from "../../answer/answer.ts";
import type { Solved } from "../../answer/solved.ts";
import { type PlanSummary, samplesMs } from "../../answer/summary.ts";
import { trainCommand } from "../../answer/trainCommand.ts";
import { formatBytes, formatCount } from "../../errors.ts";
import { pictureFormOf, publishedModel } from "../../models/families.ts";
import { DIALOGUE_TOKENS } from "../../plan/dryRun/batchShapes.ts";
import type { SizedWorkload } from "../../plan/planner.ts";
import { commandLine } from "../../program.ts";
import { formatDuration, table } from "../output/output.ts";
import { comparisonText, explanation } from "./explain.ts";
import { rankRows, ranksText } from "./ranksText.ts";
import { besideIt, cautions, elsewhere, gib, SHOWN_BYTES, waysTable, withArticle } from "./words.ts";

/** Returns what `lorafit plan` prints for people. */
export function planText(answer: Answer): string {
  const { options } = answer.asked;
  return [
    verdict(answer),
    "",
    facts(answer),
    ...(answer.cards ? ["", cardsText(answer)] : []),
    ...ranksText(answer).map((line, index) => (index === 0 ? `\n${line}` : line)),
    ...notes(answer).map((line, index) => `${index === 0 ? "\n" : ""}Note: ${line}`),
    "",
    ...(answer.plan.fits ? trainLines(answer) : waysText(answer)),
    ...(options.compare === "official" && answer.official ? ["", comparisonText(answer)] : []),
    ...(options.explain ? ["", explanation(answer)] : []),
  ].join("\n");
}

/** One sentence: whether it fits, what was solved for, or what is needed. */
export function verdict(answer: Answer): string {
  const { asked, plan, solved, fastest } = answer;
  const { device } = elsewhere(asked.device);
  if (!plan.fits) return `${capital(misfit(answer))}.`;
  if (solved?.what === "memory")
    return `The least ${device} is ${gib(plan.deviceBytes).trim()} ${besideIt(asked, plan.hostBytes)}`.trim();
  if (solved) return solvedWords(asked, solved);
  if (!fastest) return `Fits ${roomWords(asked)}.`;
  const least = `${gib(plan.deviceBytes).trim()} of ${device} ${besideIt(asked, plan.hostBytes)}`.trim();
  return `Needs at least ${least}; the fastest plan uses ${gib(fastest.deviceBytes).trim()} of ${device}.`;
}

function solvedWords(asked: Asked, { what, value, isCapped }: Solved): string {
  const name = what.replaceAll("-", "_");
  const trainedCap =
    what === "lora-r" ? "the most that is of use" : "the most that the model was trained with";
  return `The largest ${name} that fits ${roomWords(asked)} is ${formatCount(value!)}${isCapped ? `, ${trainedCap}` : ""}.`;
}

/** "a GeForce RTX 4090", "24.0 GiB of VRAM". */
function roomWords({ device, limits }: Asked): string {
  if (device.kind === "card" && device.isNamed) return withArticle(device.title);
  const amount = formatBytes(limits.deviceBytes ?? 0);
  return device.kind === "card" ? `${amount} of VRAM` : `${amount} of this machine's memory`;
}

/** "needs at least 2.48 GiB of VRAM: the limit is 1.0 GiB". */
export function misfit({ asked, plan }: Pick<Answer, "asked" | "plan">): string {
  const {
    deviceBytes = Number.POSITIVE_INFINITY,
    hostBytes = Number.POSITIVE_INFINITY,
    sumBytes,
  } = asked.limits;
  const { device, of } = elsewhere(asked.device);
  const both = plan.deviceBytes + plan.hostBytes;
  const short = [
    { needed: plan.deviceBytes, given: deviceBytes, of: `of ${device}` },
    ...(sumBytes === undefined ? [{ needed: plan.hostBytes, given: hostBytes, of }] : []),
    ...(sumBytes === undefined ? [] : [{ needed: both, given: sumBytes, of: "of this machine's memory" }]),
  ].filter(({ needed, given }) => needed > given);
  const amounts = short.map(
    ({ needed, given, of }) => `${gib(needed).trim()} ${of}: the limit is ${formatBytes(given)}`,
  );
  return `needs at least ${amounts.join("; and ")}`;
}

function capital(sentence: string): string {
  return sentence.charAt(0).toUpperCase() + sentence.slice(1);
}

/** Model, sample, memory and time, a row each. */
function facts(answer: Answer): string {
  const { asked, plan, official, cards } = answer;
  const rows: (readonly [name: string, words: string])[] = [
    ["Model", modelWords(asked, plan.workload)],
    ["Sample", sampleWords(asked, plan.workload)],
    ...(cards ? [] : memoryRows(answer)),
    ...rankRows(answer),
    ...(official ? [["Official recipe", officialWords(answer)] as const] : []),
    ...(cards ? [] : [["Time", timeWords(asked, plan)] as const]),
  ];
  return table(rows.map(([name, words]) => [`  ${name}`, words]));
}

export function modelWords({ model, options }: Asked, { rank }: SizedWorkload): string {
  const name = publishedModel(options.model)?.name ?? options.model;
  const vision = model.visionBase === "bf16" ? "" : `, ${model.visionBase} vision tower`;
  return `${name}, ${model.base} base${vision}, LoRA rank ${formatCount(rank)}`;
}

export function sampleWords(
  { model }: Asked,
  { maxLength, pictureLimit, imageShare, batchSize }: SizedWorkload,
): string {
  const { limit, largest } = pictureFormOf(model.config);
  const picture =
    imageShare === undefined
      ? `a picture takes up to ${formatCount(largest(pictureLimit).tokens)} of them (${limit.option} ${formatCount(pictureLimit)})`
      : `${Math.round(imageShare * 100)} % of them picture`;
  const batch = batchSize === 1 ? "" : `; ${formatCount(batchSize)} samples in a micro-batch`;
  return `up to ${formatCount(maxLength)} tokens; ${picture}${batch}`;
}

function memoryRows({ asked, plan, least, fastest }: Answer): [string, string][] {
  const { device } = asked;
  const { deviceBytes, hostBytes, sumBytes } = asked.limits;
  const ofLimit = (limit: number | undefined): string =>
    limit === undefined ? "" : ` of ${formatBytes(limit)}`;
  const isLeast = fastest !== undefined || least.deviceBytes === plan.deviceBytes;
  const leaner = isLeast ? "" : `; a slower plan needs only ${gib(least.deviceBytes).trim()}`;
  const used = `${gib(plan.deviceBytes).trim()}${ofLimit(deviceBytes)}`;
  if (device.kind === "cpu") {
    const both = gib(plan.deviceBytes + plan.hostBytes).trim();
    const sum = sumBytes === undefined ? "" : `; ${both}${ofLimit(sumBytes)} in all`;
    return [["Memory", `${used}, and ${gib(plan.hostBytes).trim()} outside the limit${sum}`]];
  }
  const margin = device.marginBytes > 0 ? ` (${formatBytes(device.totalBytes)} less --margin)` : "";
  const assumed =
    device.isHere || asked.options.host_memory !== undefined ? "" : " (assumed; --host-memory changes it)";
  return [
    ["VRAM", `${used}${margin}${leaner}`],
    ...(plan.hostBytes >= SHOWN_BYTES
      ? [["RAM", `${gib(plan.hostBytes).trim()}${ofLimit(hostBytes)}${assumed}`] as [string, string]]
      : []),
  ];
}

function officialWords({ asked, official }: Answer): string {
  const needs = `at least ${gib(official!.deviceBytes).trim()} of VRAM`;
  if (asked.limits.deviceBytes === undefined) return needs;
  return `${needs}, ${official!.fits ? "fits too" : "does not fit"}`;
}

/** "16 s a micro-batch, 4 h 33 min for 1,000 samples (estimated from the card's data sheet)". */
export function timeWords({ options, device }: Asked, plan: Pick<PlanSummary, "workload" | "time">): string {
  const { samples } = options;
  const parts = [
    `${formatDuration(plan.time.microBatchMs)} a micro-batch`,
    `${formatDuration(samplesMs(plan, 1000))} for 1,000 samples`,
    ...(samples === undefined
      ? []
      : [`${formatDuration(samplesMs(plan, samples))} for an epoch of ${formatCount(samples)}`]),
  ];
  return `${parts.join(", ")} this long (${timeSource(device)})`;
}

function timeSource(device: Asked["device"]): string {
  if (device.kind === "cpu") return "estimated from this CPU's measured speed";
  return device.isNamed
    ? "estimated from the card's data sheet"
    : `estimated for ${withArticle(device.title)}: no --gpu is given`;
}

/** Returns a line for each thing that the user should know before starting. */
function notes(answer: Answer): string[] {
  const { asked, plan, solved } = answer;
  const { device } = asked;
  const largest = solved?.largest;
  const note = device.kind === "card" && device.isNamed ? device.note : undefined;
  const doubt = device.kind === "cpu" ? device.doubt : undefined;
  return [
    ...pictureWarning(asked, plan.workload),
    ...cautions(asked, plan.workload),
    ...(largest ? [largestWords(asked, largest)] : []),
    ...(note ? [note] : []),
    ...(doubt ? [`Times are doubtful: ${doubt}. Plan again in ten minutes, on a quiet machine.`] : []),
  ];
}

/** "The largest that would fit is 488,192 (and 54.51 GiB of RAM, 55 min a micro-batch); ...". */
function largestWords(asked: Asked, { value, plan }: NonNullable<Solved["largest"]>): string {
  const needs = [besideIt(asked, plan.hostBytes), `${formatDuration(plan.time.microBatchMs)} a micro-batch`];
  return `The largest that would fit is ${formatCount(value)} (${needs.filter(Boolean).join(", ")}); --beyond-training plans for it.`;
}

/** A picture that leaves nothing to learn of a sample. */
function pictureWarning({ model }: Asked, { maxLength, pictureLimit, imageShare }: SizedWorkload): string[] {
  const { limit, largest } = pictureFormOf(model.config);
  const worst = largest(pictureLimit).tokens;
  if (imageShare !== undefined || worst + 2 <= maxLength) return [];
  const lower = pictureLimit > limit.range.least ? ` or a lower --${limit.flag}` : "";
  return [
    `A picture at ${limit.option} ${pictureLimit} can take ${formatCount(worst)} tokens, so max_length ${formatCount(maxLength)} leaves no token to learn. Pass --max-length ${worst + DIALOGUE_TOKENS}${lower}. Planned is the largest picture that leaves room for text, if there is one.`,
  ];
}

function trainLines(answer: Answer): string[] {
  const { asked, cards } = answer;
  if (cards)
    return [
      `Plan for your card:  ${commandLine("plan --gpu NAME")}      All cards:  ${commandLine("plan --list-gpus")}`,
    ];
  const more = asked.options.explain
    ? []
    : [
        "More:   --explain shows slower options, room to spare and the cost of each setting; --html FILE draws it",
      ];
  return [`Train:  ${trainCommand(answer)}`, ...more];
}

/** Changes with which something fits. */
function waysText({ asked, waysOut = [] }: Answer): string[] {
  if (waysOut.length === 0)
    return ["Neither a shorter max_length, a lower rank, nor fewer bits of the base make it fit."];
  return ["What would fit, each alone:", waysTable(asked, waysOut)];
}

/** One row for each common card: time and memory with the base as asked and in NF4; time on several cards. */
function cardsText({ cards }: Answer): string {
  const { bases, counts, rows } = cards!;
  const samplesTime = (plan: PlanSummary): string =>
    plan.fits ? formatDuration(samplesMs(plan, 1000)) : "does not fit";
  const cellsOf = (plan: PlanSummary): string[] => [
    plan.fits ? formatDuration(plan.time.microBatchMs) : "does not fit",
    ...(plan.fits ? [samplesTime(plan), formatBytes(plan.hostBytes)] : ["", ""]),
  ];
  const ofSeveral = counts.length > 0 ? `; ${counts.join(", ")} cards: 1,000 samples, ${bases[0]} base` : "";
  return [
    `Common cards, the fastest plan that fits: time of a micro-batch and of 1,000 samples this long, and RAM${ofSeveral}:`,
    table([
      [
        ...["  --gpu", "VRAM", ...bases.flatMap((base) => [`${base} base`, "1,000 samples", "RAM"])],
        ...counts.map((count) => `${count} cards`),
      ],
      ...rows.map(({ name, totalBytes, plans, several }) => [
        ...[`  ${name}`, formatBytes(totalBytes)],
        ...[...plans.flatMap(cellsOf), ...several.map(samplesTime)],
      ]),
    ]),
  ].join("\n");
}
