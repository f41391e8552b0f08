/**
 * Writes docs/scale.md: what 8, 64 and 1,024 cards take for a step, by the planner's own model (`make docs`).
 * Nothing here is measured; a card's and a link's rates come from their tables.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { PlanOptions } from "../src/answer/options.ts";
import { questionOf } from "../src/answer/question.ts";
import { linkBytesOfStep } from "../src/answer/ranks.ts";
import { samplesMs, summaryOf, wholeStepMs } from "../src/answer/summary.ts";
import { formatBytes, formatCount, GIB } from "../src/errors.ts";
import { STEP_PHASES } from "../src/plan/dryRun/dryRun.ts";
import type { Planner, SizedPlan } from "../src/plan/planner.ts";
import { fastestPlan, leanestPlan } from "../src/plan/search.ts";
import { collectiveSeconds } from "../src/plan/time/links/collectives.ts";
import { linkBytesOf, opTimeMs } from "../src/plan/time/stepTime.ts";
import { packageRoot } from "../src/torch/install/libtorch.ts";

/** Micro-batches of each rank in a step, the same for every number of cards. */
const PER_RANK = 2;

interface Case {
  title: string;
  gpu: string;
  perMachine: number;
  /** Links between machines to compare. */
  links: string[];
}

const CASES: readonly Case[] = [
  { title: "8 H100 a machine", gpu: "h100-80gb", perMachine: 8, links: ["10GbE", "100GbE", "ib400"] },
  { title: "4 RTX 4090 a machine", gpu: "rtx-4090", perMachine: 4, links: ["10GbE", "100GbE"] },
];

/** Cards and links of which two share a base. */
const SHARING = [
  ["rtx-4060", "pcie4x8"],
  ["rtx-3090", "pcie4x8"],
  ["rtx-3090", "nvlink"],
  ["rtx-4090", "pcie4x16"],
  ["rtx-5090", "pcie5x8"],
  ["h100-80gb", "nvlink"],
] as const;

const COUNTS = [8, 64, 1024] as const;

/** Cards that share the rows of a sample. links: between cards of a machine, and between machines. */
const ROWS = [
  { gpu: "h100-80gb", perMachine: 8, links: "nvlink" },
  { gpu: "rtx-4090", perMachine: 8, links: "pcie4x16" },
  { gpu: "rtx-4090", perMachine: 4, links: "pcie4x16,100GbE" },
  { gpu: "rtx-4090", perMachine: 4, links: "pcie4x16,10GbE" },
  { gpu: "rtx-3090", perMachine: 8, links: "pcie4x8" },
] as const;

/** Tokens of a sample whose rows are shared. */
const LONG_TOKENS = 65_536;
const HOST_BYTES = 512 * GIB;

const FILE = join(packageRoot, "docs", "scale.md");
const [BEGIN, END] = ["<!-- written by bench/scale.ts -->", "<!-- end -->"];

const text = readFileSync(FILE, "utf8");
const [before, after] = [text.slice(0, text.indexOf(BEGIN) + BEGIN.length), text.slice(text.indexOf(END))];
writeFileSync(
  FILE,
  `${before}\n\n${[...CASES.map(tableOf), sharedTable(), rowsTable()].join("\n\n")}\n\n${after}`,
);

function tableOf({ title, gpu, perMachine, links }: Case): string {
  const alone = efficiencyBase(gpu);
  const rows = links.flatMap((link) => COUNTS.map((count) => rowOf({ gpu, perMachine, link, count }, alone)));
  const distinct = [...new Set(rows)]; // of one machine, whatever joins several
  return [
    `### ${title}, the whole base on each`,
    "",
    "| link between machines | cards | a step | of it the sum of gradients | each card sends | 1,000 samples | efficiency |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    ...distinct,
  ].join("\n");
}

/**
 * Compares the gathers of a micro-batch with its computing: all layers come twice, for forward and backward.
 */
function sharedTable(): string {
  const rows = SHARING.map(([gpu, link]) => {
    const { planner, workload } = questionOf(optionsOf({ gpu, gpus: 2, link }));
    const open = { budgetBytes: Number.POSITIVE_INFINITY, hostBytes: Number.POSITIVE_INFINITY };
    const cells = [planner, planner.withBases({ base: "nf4" })].flatMap((held) => {
      const { run, stepMs } = leanestPlan(held, workload, open, { weights: "resident" });
      const gatherMs = 2e3 * collectiveSeconds("gather", run.device.categories.weights, planner.wiring!);
      return [seconds(gatherMs), seconds(stepMs), formatCount(Math.ceil((run.tokens * gatherMs) / stepMs))];
    });
    return `| ${gpu} | ${planner.wiring!.link.name} | ${cells.join(" | ")} |`;
  });
  return [
    "### Two cards share the base: gathers and computing of a micro-batch",
    "",
    "| card | link | bf16: gathers | computing | hidden from tokens | NF4: gathers | computing | hidden from tokens |",
    "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ...rows,
  ].join("\n");
}

/** Compares a long sample on one card and on several that share its rows. */
function rowsTable(): string {
  const rows = ROWS.flatMap(({ gpu, perMachine, links }) => {
    const counts = perMachine < 8 ? [8] : [1, 2, 4, 8];
    const alone = sharingRows({ gpu, gpus: 1 });
    return counts.map((count) => {
      const gpus = Math.min(count, perMachine);
      const asked = { gpu, gpus, nodes: count / gpus, sequence_parallel: count, link: links };
      const { plan, planner } = count === 1 ? alone : sharingRows(asked);
      const ops = plan.run.phases.flatMap((phase) => (STEP_PHASES.includes(phase.name) ? phase.ops() : []));
      const exchangeMs = ops
        .filter(({ stream }) => stream === "link")
        .reduce((sum, op) => sum + op.count * opTimeMs(op, planner.speed), 0);
      const cells = [
        ...[gpu, count === 1 ? "none" : links.replace(",", ", "), `${count}`, seconds(plan.stepMs)],
        ...[count === 1 ? "-" : seconds(exchangeMs), formatBytes(linkBytesOf(ops))],
        `${Math.round((100 * alone.plan.stepMs) / (count * plan.stepMs))} %`,
      ];
      return `| ${cells.join(" | ")} |`;
    });
  });
  return [
    `### Cards share the rows of a sample: ${formatCount(LONG_TOKENS)} tokens`,
    "",
    "| card | link | cards | a micro-batch | of it exchanges | each card sends | efficiency |",
    "| --- | --- | --- | --- | --- | --- | --- |",
    ...rows,
  ].join("\n");
}

/** Plans the first of the ranks; the others have as many rows. */
function sharingRows(asked: Record<string, unknown>): { plan: SizedPlan; planner: Planner } {
  const options = optionsOf({ max_length: LONG_TOKENS, host_memory: HOST_BYTES, ...asked });
  const { planner: ofAny, workload, limits } = questionOf(options);
  const planner = ofAny.asRank(0);
  return { plan: fastestPlan(planner, workload, limits), planner };
}

/** Milliseconds of a sample on one card. */
function efficiencyBase(gpu: string): number {
  const { planner, workload, limits } = questionOf(optionsOf({ gpu, gradient_accumulation: PER_RANK }));
  return samplesMs(summaryOf({ planner }, fastestPlan(planner, workload, limits)), 1000) / 1000;
}

function rowOf(
  { gpu, perMachine, link, count }: { gpu: string; perMachine: number; link: string; count: number },
  aloneMs: number,
): string {
  const nodes = count / perMachine;
  const asked = { gpu, gpus: perMachine, nodes, gradient_accumulation: PER_RANK * count };
  const question = questionOf(optionsOf({ ...asked, ...(nodes > 1 && { link }) }));
  const { planner, workload, limits } = question;
  const plan = fastestPlan(planner, workload, limits, { weights: "resident" });
  const summary = summaryOf({ planner }, plan);
  const stepMs = wholeStepMs(summary);
  const samples = PER_RANK * count;
  const cells = [
    ...[nodes > 1 ? link : "none", formatCount(count), seconds(stepMs), seconds(summary.time.sumMs ?? 0)],
    ...[formatBytes(linkBytesOfStep(plan, planner)), seconds(1000 * (stepMs / samples))],
    `${Math.round((100 * samples * aloneMs) / (count * stepMs))} %`,
  ];
  return `| ${cells.join(" | ")} |`;
}

function seconds(ms: number): string {
  if (ms < 1000) return `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
  return `${(ms / 1000).toPrecision(3)} s`;
}

function optionsOf(asked: Record<string, unknown>): PlanOptions {
  return PlanOptions.parse({ hd_num: 16, max_length: 4096, ...asked });
}
