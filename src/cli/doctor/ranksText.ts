/** Writes what doctor --peers found, for people. */
import { plural } from "../../errors.ts";
import { table } from "../output/output.ts";
import type { Link } from "./links.ts";
import type { RankFacts } from "./rankFacts.ts";

export interface Checked {
  ranks: readonly RankFacts[];
  links: readonly Link[];
  clocksMs: readonly number[];
  ringBytesPerSecond: number;
}

export function checkedText({ ranks, links, clocksMs, ringBytesPerSecond }: Checked): string {
  const rows = ranks.map(({ rank, host, address, device, card, threads }) => [
    `rank ${rank}`,
    host,
    address,
    card === null ? `${device}, ${plural(threads, "thread")}` : `${device} ${card}`,
    `clock ${signed(clocksMs[rank] ?? 0)} ms`,
  ]);
  return [
    table(rows),
    "",
    linksText(ranks.length, links),
    "",
    `ring of all ranks: ${rate(ringBytesPerSecond)}; slowest message: ${slowestMs(links).toFixed(2)} ms`,
    `lorafit ${ranks[0]!.lorafit}, libtorch ${ranks[0]!.libtorch}, Node ${ranks[0]!.node}${contents(ranks[0]!)}`,
  ].join("\n");
}

/** Writes a table of rates, a row for each sender; for many ranks a line for each link. */
function linksText(count: number, links: readonly Link[]): string {
  const of = (from: number, to: number): Link | undefined =>
    links.find((link) => link.from === from && link.to === to);
  const all = Array.from({ length: count }, (_, rank) => rank);
  if (links.length < count * (count - 1))
    return table(links.map((link) => [`${link.from} -> ${link.to}`, shown(link)]));
  const head = ["from \\ to", ...all.map((to) => `rank ${to}`)];
  const body = all.map((from) => [
    `rank ${from}`,
    ...all.map((to) => (from === to ? "-" : shown(of(from, to)))),
  ]);
  return table([head, ...body]);
}

function shown(link: Link | undefined): string {
  return link?.bytesPerSecond == null ? "fails" : rate(link.bytesPerSecond);
}

/** Writes a rate: "12.3 GB/s". */
function rate(bytesPerSecond: number): string {
  return `${(bytesPerSecond / 1e9).toFixed(bytesPerSecond < 1e10 ? 2 : 1)} GB/s`;
}

function slowestMs(links: readonly Link[]): number {
  return Math.max(0, ...links.map(({ latencyMs }) => latencyMs ?? 0));
}

function signed(ms: number): string {
  return `${ms >= 0 ? "+" : ""}${ms.toFixed(0)}`;
}

function contents({ data, model }: RankFacts): string {
  return `${data === null ? "" : `, data ${data}`}${model === null ? "" : `, model ${model}`}`;
}
