/** Several ranks in the words of `lorafit plan`: how they are joined, and what they buy beside one. */
import type { Answer, Asked } from "../../answer/answer.ts";
import type { JoiningLink, RanksSummary, RanksWay, WayName } from "../../answer/ranks.ts";
import { samplesMs, wholeStepMs } from "../../answer/summary.ts";
import { formatBytes, formatCount, plural } from "../../errors.ts";
import { formatDuration, table } from "../output/output.ts";
import { elsewhere, gib } from "./words.ts";

/** Rows of the facts: which ranks there are, and what their link carries. */
export function rankRows({ asked, plan, ranks }: Answer): [string, string][] {
  if (!ranks) return [];
  const { sumMs = 0 } = plan.time;
  const { accumulation = 1 } = plan.workload;
  const step = `${formatDuration(wholeStepMs(plan))} a step of ${plural(accumulation, "micro-batch").replace(/hs$/, "hes")}`;
  const sent = `each rank sends ${formatBytes(ranks.linkBytes)} a step`;
  const { atOnce = 1 } = plan.time;
  const perRank = Math.ceil(accumulation / atOnce);
  const idle = perRank * atOnce - accumulation;
  const waits =
    idle > 0 ? `; ${plural(idle, "rank")} of the last round without work: raise --gradient-accumulation` : "";
  return [
    [isCard(asked) ? "Cards" : "Ranks", joinedWords(asked, ranks)],
    ["Step", `${step}, ${formatCount(perRank)} a rank${waits}`],
    ["Link", `${sent}; waiting for the sum of gradients takes ${secondsWords(sumMs)}`],
  ];
}

function isCard({ device }: Pick<Asked, "device">): boolean {
  return device.kind === "card";
}

/** "16, 8 in each of 2 machines; nvlink4 (360 GB/s) between cards, 10GbE (1.0 GB/s) between machines". */
function joinedWords(asked: Asked, { count, perMachine, link, network }: RanksSummary): string {
  const machines = count / perMachine;
  const where =
    machines === 1
      ? "in one machine"
      : `${formatCount(perMachine)} in each of ${formatCount(machines)} machines`;
  const links = [
    ...(perMachine > 1 ? [`${linkWords(link)} between ${isCard(asked) ? "cards" : "ranks"}`] : []),
    ...(network ? [`${linkWords(network)} between machines`] : []),
  ];
  const isAssumed = [perMachine > 1 ? link : undefined, network].some((one) => one && !one.isGiven);
  return `${formatCount(count)}, ${where}; ${links.join(", ")}${isAssumed ? "; --link changes it" : ""}`;
}

function linkWords({ name, bytesPerSecond, isGiven }: JoiningLink): string {
  const gigabytes = bytesPerSecond / 1e9;
  const rate = `${gigabytes.toFixed(gigabytes < 10 ? 1 : 0)} GB/s`;
  if (name === rate.replace(" ", "")) return name;
  return `${name} (${rate}${isGiven ? "" : ", assumed"})`;
}

const WAY_WORDS: Record<WayName, (count: number, noun: string) => string> = {
  alone: (_count, noun) => `one ${noun} by itself`,
  whole: (count, noun) => `${formatCount(count)} ${noun}s, each with its own samples`,
  rows: (count, noun) => `${formatCount(count)} ${noun}s that share each sample`,
  shared: (count, noun) => `${formatCount(count)} ${noun}s that share the base`,
};

function secondsWords(ms: number): string {
  return ms < 100 ? `${ms.toFixed(ms < 10 ? 1 : 0)} ms` : formatDuration(ms);
}

/** A row for one card, and for each way of using several. */
export function ranksText({ asked, ranks }: Answer): string[] {
  if (!ranks || ranks.ways.length === 0) return [];
  const noun = isCard(asked) ? "card" : "rank";
  const { device } = elsewhere(asked.device);
  return [
    `What ${formatCount(ranks.count)} ${noun}s buy, beside one:`,
    table([
      ["  ", "1,000 samples", `${device} of each`, "RAM a machine", "longest sample", `least ${device}`],
      ...ranks.ways.map((way) => [`  ${WAY_WORDS[way.name](ranks.count, noun)}`, ...cellsOf(way)]),
    ]),
  ];
}

function cellsOf({ plan, maxLength, leastBytes }: RanksWay): string[] {
  const longest = maxLength
    ? `${formatCount(maxLength.value)} tokens${maxLength.isCapped ? " (trained)" : ""}`
    : "none fits";
  const fits = plan.fits
    ? [formatDuration(samplesMs(plan, 1000)), gib(plan.deviceBytes).trim(), formatBytes(plan.hostBytes)]
    : ["does not fit", "", ""];
  return [...fits, longest, gib(leastBytes).trim()];
}
