/** Bytes and time of a collective among ranks. */
import type { Collective } from "../../../torch/trace.ts";
import type { Wiring } from "./links.ts";

/**
 * Returns the bytes that a rank sends. bytes: of the tensor that every rank has before and after: the sum,
 * all gathered parts, all exchanged parts. A ring sums in two rounds, of parts and of their sums.
 */
export function sentBytes(kind: Collective, bytes: number, count: number): number {
  const others = (count - 1) / count;
  const shares: Record<Collective, number> = {
    sum: 2 * others,
    gather: others,
    exchange: others,
    broadcast: count > 1 ? 1 : 0,
  };
  return shares[kind] * bytes;
}

/** Returns the seconds of a collective that has the links to itself. bytes: as of sentBytes. */
export function collectiveSeconds(kind: Collective, bytes: number, wiring: Wiring): number {
  if (wiring.count === 1) return 0;
  return hopsMs(kind, wiring) / 1e3 + sendingSeconds(kind, bytes, wiring);
}

function sendingSeconds(
  kind: Collective,
  bytes: number,
  { count, perMachine, link, network }: Wiring,
): number {
  if (kind !== "exchange" || !network) {
    const slowest = Math.min(link.bytesPerSecond, network?.bytesPerSecond ?? Number.POSITIVE_INFINITY);
    return sentBytes(kind, bytes, count) / slowest; // a ring leaves and enters every machine once
  }
  const part = bytes / count; // each rank has a part for each other; all parts for elsewhere share the network
  const inside = (part * (perMachine - 1)) / link.bytesPerSecond;
  return Math.max(inside, (part * (count - perMachine) * perMachine) / network.bytesPerSecond);
}

/**
 * Returns the milliseconds of a collective's hops, one after the other. A sum of little takes a tree of
 * machines if that has fewer hops, as NCCL chooses by size.
 */
function hopsMs(kind: Collective, { count, perMachine, link, network }: Wiring): number {
  const rounds = kind === "sum" ? 2 : 1;
  const ring = (count - 1) * (network ?? link).hopMs;
  if (kind !== "sum") return rounds * ring;
  const machines = count / perMachine;
  const tree = Math.ceil(Math.log2(machines)) * (network?.hopMs ?? 0) + (perMachine - 1) * link.hopMs;
  return rounds * Math.min(ring, tree);
}
