/**
 * A plan as a page: memory of a step over time, memory of other sizes, cost of the rank, and the plan in
 * words.
 */

import type { Answer } from "../../answer/answer.ts";
import { PART_TITLES } from "../../answer/partTitles.ts";
import { formatBytes, formatCount, GIB } from "../../errors.ts";
import { pictureFormOf } from "../../models/families.ts";
import type { Moment } from "../../plan/dryRun/dryRun.ts";
import { CATEGORIES } from "../../torch/device.ts";
import { heatMap, stackedAreas } from "../output/areaCharts.ts";
import { lineChart } from "../output/charts.ts";
import { escaped, htmlPage, htmlTable } from "../output/page.ts";
import { explanation, savings } from "./explain.ts";
import { modelWords, planText, sampleWords, timeWords, verdict } from "./planText.ts";
import { elsewhere, gib } from "./words.ts";

const STYLE = `
.table { overflow-x: auto } table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums }
th, td { text-align: right; padding: .15rem .5rem; border-bottom: 1px solid var(--edge) } th:first-child, td:first-child { text-align: left; padding-left: 0 } td:not(:first-child) { white-space: nowrap }
figure { margin: 0 0 1rem; border: 1px solid var(--edge); border-radius: 8px; padding: .7rem; break-inside: avoid } figure { overflow-x: auto } figure svg { width: 100%; min-width: 38rem; height: auto } .small svg { display: block; max-width: 34rem; min-width: 0 }
.words td { white-space: normal; text-align: left } .words td:first-child { white-space: nowrap; vertical-align: top; font-weight: 600 } .savings td:first-child { min-width: 18rem }
pre { overflow-x: auto; font-size: .8rem; border: 1px solid var(--edge); border-radius: 8px; padding: .7rem }`;

/** Returns the page as one file. Throws if the answer has no facts for a page. */
export function planHtml(answer: Answer): string {
  const { asked, plan } = answer;
  const { options } = asked;
  const body = [
    `<h1>${escaped(verdict(answer))}</h1>`,
    `<p>${[modelWords(asked, plan.workload), sampleWords(asked, plan.workload), timeWords(asked, plan)].map(escaped).join("<br>")}</p>`,
    `<h2>What uses the memory during a step?</h2>`,
    timeline(answer),
    "<h2>What do longer samples and larger pictures need?</h2>",
    sizes(answer),
    "<h2>What does the rank cost?</h2>",
    ranks(answer),
    ...(options.compare === "official" && answer.official
      ? ["<h2>What does each step save against the official recipe?</h2>", waterfall(answer)]
      : []),
    "<h2>The plan in words</h2>",
    `<pre>${escaped(planText({ ...answer, asked: { ...asked, options: { ...options, explain: false } } }))}</pre>`,
    "<h2>Slower options, room to spare, and the cost of each setting</h2>",
    `<pre>${escaped(explanation(answer))}</pre>`,
  ];
  return htmlPage({ title: "lorafit plan", style: STYLE, body: body.join("\n") });
}

function timeline(answer: Answer): string {
  const { moments } = answer.page!;
  const { device, column } = elsewhere(answer.asked.device);
  const phases = answer.details!.phases.map(({ name, devicePeakBytes, hostPeakBytes }) => [
    name,
    formatBytes(devicePeakBytes),
    formatBytes(hostPeakBytes),
    largestAt(moments, name),
  ]);
  return `<figure>${memoryChart(answer, moments)}</figure>${htmlTable(["phase", `${device}, peak`, column, "largest part"], phases)}`;
}

/** Draws the device's memory over one step by category, under its limit. */
export function memoryChart(
  { asked, plan }: Pick<Answer, "asked" | "plan">,
  moments: readonly Moment[],
): string {
  const used = CATEGORIES.filter((name) => moments.some(({ bytes }) => bytes[name] > 0));
  const beside = (plan.parts.context ?? 0) + (plan.parts.allocator ?? 0);
  const layers = used.map((name) => ({
    name: PART_TITLES[name] ?? name,
    values: moments.map(({ bytes }) => bytes[name] / GIB),
  }));
  const constant = { name: "CUDA context, rounding", values: moments.map(() => beside / GIB) };
  const { deviceBytes } = asked.limits;
  return stackedAreas({
    title: `${capital(elsewhere(asked.device).device)} over one step with its start and its end, GiB`,
    layers: beside > 0 ? [constant, ...layers] : layers,
    phases: moments.map(({ phase }) => phase),
    limit:
      deviceBytes === undefined
        ? undefined
        : { name: `limit ${formatBytes(deviceBytes)}`, value: deviceBytes / GIB },
  });
}

function capital(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1);
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

function sizes({ asked, page }: Answer): string {
  const { pictureLimits, maxLengths, bytes } = page!.sizes;
  const { option } = pictureFormOf(asked.model.config).limit;
  const { deviceBytes } = asked.limits;
  const names = maxLengths.map(formatCount);
  const chart = heatMap({
    title: `Least ${elsewhere(asked.device).device}, GiB`,
    rows: { label: option, names: pictureLimits.map(String) },
    columns: { label: "max_length", names },
    cells: bytes.map((row) => row.map((cell) => (cell === null ? undefined : cell / GIB))),
    limit: deviceBytes === undefined ? undefined : deviceBytes / GIB,
  });
  const rows = bytes.map((row, index) => [
    String(pictureLimits[index]),
    ...row.map((cell) => (cell === null ? "too short" : (cell / GIB).toFixed(2))),
  ]);
  return `<figure>${chart}</figure>${htmlTable([option, ...names], rows)}`;
}

function ranks({ asked, page }: Answer): string {
  const { deviceBytes } = asked.limits;
  const { device } = elsewhere(asked.device);
  const points = page!.ranks.map(({ rank, bytes }) => [rank, bytes / GIB] as const);
  const chart = lineChart({
    title: "Memory by rank, under this policy",
    x: { label: "lora_r", whole: true },
    y: { label: device, unit: "GiB" },
    series: [{ name: device, points }],
    ...(deviceBytes !== undefined && { limit: { name: "limit", value: deviceBytes / GIB } }),
    yFrom: "data",
  });
  return `<figure class="small">${chart}</figure>${htmlTable(
    ["lora_r", "GiB"],
    points.map(([rank, amount]) => [String(rank), amount.toFixed(2)]),
  )}`;
}

function waterfall(answer: Answer): string {
  const rows = savings(answer);
  return `<div class="savings">${htmlTable(
    ["schedule", "memory", "saves"],
    rows.map(({ what, bytes, savedBytes }, index) => [
      what,
      gib(bytes).trim(),
      index === 0 ? "" : gib(savedBytes).trim(),
    ]),
  )}</div>`;
}
