/** A plan as a page: the memory of a step over time, what sizes need, what ranks cost, and what each card can take. */

import { pictureTokens } from "../../data/pictures/image.ts";
import { formatBytes, formatCount, GIB } from "../../errors.ts";
import { largestGrid } from "../../plan/dryRun/batchShapes.ts";
import type { Moment } from "../../plan/dryRun/dryRun.ts";
import type { Plan, Workload } from "../../plan/planner.ts";
import { leanestPlan, solve } from "../../plan/search.ts";
import { listDevices } from "../../plan/time/cards.ts";
import { CATEGORIES } from "../../torch/device.ts";
import { heatMap, stackedAreas } from "../output/areaCharts.ts";
import { lineChart } from "../output/charts.ts";
import { escaped, htmlPage, htmlTable } from "../output/html.ts";
import { formatDuration } from "../output/output.ts";
import type { Answer } from "./answer.ts";
import { savings } from "./compareOfficial.ts";
import { PART_TITLES } from "./explain.ts";
import type { TellStage } from "./progress.ts";
import { isUnlimited, type Question } from "./question.ts";
import { overview, planText, titleOf } from "./report.ts";
import { elsewhere, gib } from "./words.ts";

const HD_NUMS = [4, 9, 16, 25, 36, 55, 91];
const MAX_LENGTHS = [2048, 4096, 8192, 16384, 32768, 65536, 131072];
const RANKS = [4, 8, 16, 24, 32, 48, 64];

const STYLE = `
.table { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .15rem .5rem; border-bottom: 1px solid var(--edge) } th:first-child, td:first-child { text-align: left; padding-left: 0 } td:not(:first-child) { white-space: nowrap }
figure { margin: 0 0 1rem; border: 1px solid var(--edge); border-radius: 8px; padding: .7rem; break-inside: avoid } figure { overflow-x: auto } figure svg { width: 100%; min-width: 38rem; height: auto } .small svg { display: block; max-width: 34rem; min-width: 0 }
.remarks td { white-space: nowrap; vertical-align: top } .remarks td:last-child, .remarks th:last-child { text-align: left; white-space: normal; min-width: 30rem }
pre { overflow-x: auto; font-size: .8rem; border: 1px solid var(--edge); border-radius: 8px; padding: .7rem }`;

/** The page of a plan, as one file. */
export function planHtml(question: Question, answer: Answer, tell: TellStage = () => {}): string {
  const { plan } = answer;
  const body = [
    `<h1>${escaped(verdictOf(question, plan))}</h1><p>${escaped(titleOf(question, plan)).replace("\n", "<br>")}</p>`,
    `<pre>${escaped(overview(question, answer))}</pre>`,
    "<h2>What uses the memory in the course of a step?</h2>",
    timeline(question, plan),
    "<h2>What do picture and sequence need at the least?</h2>",
    sizes(question, plan, tell),
    "<h2>What does a rank cost?</h2>",
    ranks(question, plan, tell),
    ...(question.options.compare === "official" && answer.official
      ? ["<h2>What does each step save against the official recipe?</h2>", waterfall(question, answer)]
      : []),
    "<h2>How long a sequence does each card take?</h2>",
    cards(question, plan, tell),
    "<h2>The plan in words</h2>",
    `<pre>${escaped(planText(question, answer))}</pre>`,
  ];
  return htmlPage({ title: "lorafit plan", style: STYLE, body: body.join("\n") });
}

function verdictOf(question: Question, { fits, run, stepMs }: Plan): string {
  const time = `about ${formatDuration(stepMs)} a micro-batch`;
  if (isUnlimited(question)) return `The least memory is ${formatBytes(run.budgetedBytes)}, ${time}`;
  const verdict = fits ? "Fits" : "Does not fit";
  return `${verdict} ${formatBytes(question.limits.budgetBytes)}: needs ${formatBytes(run.budgetedBytes)}, ${time}`;
}

function timeline(question: Question, { run }: Plan): string {
  const moments = run.timeline();
  const used = CATEGORIES.filter((name) => moments.some(({ bytes }) => bytes[name] > 0));
  const chart = stackedAreas({
    title: `${memoryOf(question)} over a run of one step, GiB`,
    layers: used.map((name) => ({
      name: PART_TITLES[name] ?? name,
      values: moments.map(({ bytes }) => bytes[name] / GIB),
    })),
    phases: moments.map(({ phase }) => phase),
  });
  const peaks = run.phases.map(({ name, devicePeakBytes, hostPeakBytes }) => [
    name,
    formatBytes(devicePeakBytes),
    formatBytes(hostPeakBytes),
    largestAt(moments, name),
  ]);
  return `<figure>${chart}</figure>${htmlTable(["phase", `${memoryOf(question)} at its peak`, elsewhere(question).where, "largest part"], peaks)}`;
}

function memoryOf({ card }: Question): string {
  return card ? "VRAM" : "Memory";
}

function largestAt(moments: readonly Moment[], phase: string): string {
  const sums = CATEGORIES.map(
    (name) =>
      [
        name,
        Math.max(0, ...moments.filter((one) => one.phase === phase).map(({ bytes }) => bytes[name])),
      ] as const,
  );
  const [name] = sums.reduce((best, other) => (other[1] > best[1] ? other : best));
  return PART_TITLES[name] ?? name;
}

function sizes(question: Question, { workload }: Plan, tell: TellStage): string {
  const { planner, limits, fixed } = question;
  const cells = HD_NUMS.map((hdNum, down) =>
    MAX_LENGTHS.map((maxLength, across) => {
      tell("sizes", (down + across / MAX_LENGTHS.length) / HD_NUMS.length);
      if (pictureTokens([largestGrid(hdNum)]) + 2 > maxLength) return undefined; // no token would be left to learn
      const sized: Workload = { ...workload, hdNum, maxLength, imageShare: undefined };
      return leanestPlan(planner, sized, limits, fixed).run.budgetedBytes / GIB;
    }),
  );
  const chart = heatMap({
    title: `Least ${question.card ? "VRAM" : "memory"}, GiB`,
    rows: { label: "hd_num", names: HD_NUMS.map(String) },
    columns: { label: "max_length", names: MAX_LENGTHS.map(formatCount) },
    cells,
    limit: Number.isFinite(limits.budgetBytes) ? limits.budgetBytes / GIB : undefined,
  });
  const rows = cells.map((row, index) => [
    String(HD_NUMS[index]),
    ...row.map((cell) => cell?.toFixed(2) ?? "too short"),
  ]);
  return `<figure>${chart}</figure>${htmlTable(["hd_num", ...MAX_LENGTHS.map(formatCount)], rows)}`;
}

function ranks(question: Question, { workload, policy }: Plan, tell: TellStage): string {
  tell("ranks");
  const { planner, limits } = question;
  const points = RANKS.map(
    (rank) => [rank, planner.plan({ ...workload, rank }, policy, limits).run.budgetedBytes / GIB] as const,
  );
  const chart = lineChart({
    title: "Memory by rank, under this policy",
    x: { label: "lora_r", whole: true },
    y: { label: memoryOf(question), unit: "GiB" },
    series: [{ name: memoryOf(question), points }],
    ...(Number.isFinite(limits.budgetBytes) && { limit: { name: "limit", value: limits.budgetBytes / GIB } }),
    yFrom: "data",
  });
  return `<figure class="small">${chart}</figure>${htmlTable(
    ["lora_r", "GiB"],
    points.map(([rank, gib]) => [String(rank), gib.toFixed(2)]),
  )}`;
}

function waterfall(question: Question, { plan, official }: Answer): string {
  const rows = savings(question, plan, official!);
  return htmlTable(
    ["schedule", "memory", "saves"],
    rows.map(({ what, bytes, savedBytes }, index) => [
      what,
      gib(bytes).trim(),
      index === 0 ? "" : gib(savedBytes).trim(),
    ]),
  );
}

/** Cards that allocate alike and have as much beside their context share the answer. */
function cards({ planner, limits, fixed }: Question, { workload }: Plan, tell: TellStage): string {
  const solutions = new Map<string, ReturnType<typeof solve>>();
  let maxLength = workload.maxLength; // each card's search begins at the answer of the card before, which is smaller
  const rows = listDevices().map((card, index, all) => {
    tell("cards", index / all.length);
    const own = planner.onCard(card);
    const budgetBytes = card.memoryBytes;
    const alike = `${own.allocationKey} ${budgetBytes - card.contextBytes}`;
    if (!solutions.has(alike)) {
      const from = { ...workload, maxLength };
      solutions.set(alike, solve(own, "max-length", from, { ...limits, budgetBytes }, fixed));
    }
    const solution = solutions.get(alike);
    maxLength = solution?.solved ?? maxLength;
    return [
      card.title,
      formatBytes(card.memoryBytes),
      solution ? formatCount(solution.solved) : "does not fit",
      solution ? formatDuration(own.time(solution.plan.run)) : "",
      card.note ?? "",
    ];
  });
  const headings = ["card", "memory", "longest max_length", "time a micro-batch of it", "remarks"];
  return `<div class="remarks">${htmlTable(headings, rows)}</div>`;
}
